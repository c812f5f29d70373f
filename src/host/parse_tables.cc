// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <optional>

#include "base/cpu_set.h"
#include "base/parse.h"
#include "host/parse.h"

namespace umwelt::host {
namespace {

constexpr std::uint64_t kMaxDeviceNumber = 1U << 20;  // MINORBITS
constexpr unsigned kMaxNodes = 1U << 10;              // MAX_NUMNODES

std::optional<unsigned> parse_id(std::string_view text, std::uint64_t limit) {
  const auto id = parse_u64(text);
  if (!id || *id > limit) return std::nullopt;
  return static_cast<unsigned>(*id);
}

// "CPU12", "cpu12"
std::optional<unsigned> parse_cpu(std::string_view word) {
  return parse_id(word.substr(std::min<std::size_t>(3, word.size())), CpuSet::kMaxId);
}

PerCpuTable::Row parse_row(std::string_view line, std::size_t columns) {
  const std::size_t colon = line.find(':');
  if (colon == std::string_view::npos) return {std::string(line), {}, ""};
  PerCpuTable::Row row{std::string(line.substr(0, colon + 1)), {}, ""};
  std::string_view rest = line.substr(colon + 1);
  while (row.counts.size() < columns) {
    std::string_view after = rest;
    const auto count = parse_u64(next_word(after));
    if (!count) break;
    row.counts.push_back(*count);
    rest = after;
  }
  row.rest = std::string(rest);
  return row;
}

// "Node 0, zone   Normal ...": what follows is left in `rest`.
struct ZoneHead {
  unsigned node = 0;
  std::string_view zone;
};
std::optional<ZoneHead> parse_zone_head(std::string_view& rest) {
  std::string_view words = rest;
  if (next_word(words) != "Node") return std::nullopt;
  std::string_view number = next_word(words);
  if (!number.ends_with(',')) return std::nullopt;
  number.remove_suffix(1);
  const auto node = parse_id(number, kMaxNodes);
  if (!node || next_word(words) != "zone") return std::nullopt;
  const ZoneHead head{*node, next_word(words)};
  if (head.zone.empty()) return std::nullopt;
  rest = words;
  return head;
}

Schedstat::Domain parse_domain(std::string_view line) {
  std::string_view rest = line;
  next_word(rest);
  std::string_view after = rest;
  std::string_view mask = next_word(after);
  // The names since version 17 (SMT, CLS, MC, PKG, NUMA) all have a letter that no mask has.
  if (mask.find_first_not_of("0123456789abcdef,") != std::string_view::npos) {
    rest = after;
    mask = next_word(after);
  }
  const std::size_t name_size = line.size() - rest.size();
  return {std::string(line.substr(0, name_size)), std::string(mask), std::string(after)};
}

}  // namespace

Result<Vmstat> parse_vmstat(std::string_view text) {
  Vmstat vmstat;
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    const std::string_view key = next_word(rest);
    if (const auto value = parse_u64(next_word(rest))) vmstat.emplace_back(key, *value);
  }
  if (vmstat.empty()) return fail(EINVAL, "parse vmstat");
  return vmstat;
}

Result<std::vector<Disk>> parse_diskstats(std::string_view text) {
  std::vector<Disk> disks;
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    const auto major = parse_id(next_word(rest), kMaxDeviceNumber);
    const auto minor = parse_id(next_word(rest), kMaxDeviceNumber);
    const std::string_view name = next_word(rest);
    if (!major || !minor || name.empty()) return fail(EINVAL, "parse diskstats");
    Disk disk{*major, *minor, std::string(name), {}};
    while (const auto count = parse_u64(next_word(rest))) disk.counts.push_back(*count);
    disks.push_back(std::move(disk));
  }
  return disks;
}

Result<std::vector<Partition>> parse_partitions(std::string_view text) {
  std::vector<Partition> partitions;
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    const std::string_view first = next_word(rest);
    if (first.empty() || first == "major") continue;  // the heading
    const auto major = parse_id(first, kMaxDeviceNumber);
    const auto minor = parse_id(next_word(rest), kMaxDeviceNumber);
    const auto blocks = parse_u64(next_word(rest));
    const std::string_view name = next_word(rest);
    if (!major || !minor || !blocks || name.empty()) return fail(EINVAL, "parse partitions");
    partitions.push_back({*major, *minor, *blocks, std::string(name)});
  }
  return partitions;
}

Result<PerCpuTable> parse_per_cpu_table(std::string_view text) {
  PerCpuTable table;
  std::string_view heading = next_line(text).value_or("");
  const std::size_t first = std::min(heading.find_first_not_of(' '), heading.size());
  table.corner = std::string(heading.substr(0, first));
  for (std::string_view word = next_word(heading); !word.empty(); word = next_word(heading)) {
    const auto cpu = parse_cpu(word);
    if (!cpu || table.cpus.size() > CpuSet::kMaxId) return fail(EINVAL, "parse a table of CPUs");
    table.cpus.push_back(*cpu);
  }
  if (table.cpus.empty()) return fail(EINVAL, "parse a table of CPUs");
  while (auto line = next_line(text)) table.rows.push_back(parse_row(*line, table.cpus.size()));
  return table;
}

Result<Schedstat> parse_schedstat(std::string_view text) {
  Schedstat schedstat;
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    const std::string_view key = next_word(rest);
    const auto cpu = key.starts_with("cpu") ? parse_cpu(key) : std::nullopt;
    if (cpu) {
      schedstat.cpus.push_back({*cpu, std::string(rest), {}});
    } else if (schedstat.cpus.empty()) {
      schedstat.header += std::string(*line) + "\n";
    } else if (key.starts_with("domain")) {
      schedstat.cpus.back().domains.push_back(parse_domain(*line));
    }
  }
  if (schedstat.cpus.empty()) return fail(EINVAL, "parse schedstat");
  return schedstat;
}

Result<std::vector<Zone>> parse_zoneinfo(std::string_view text) {
  std::vector<Zone> zones;
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    if (const auto head = parse_zone_head(rest))
      zones.push_back({head->node, std::string(head->zone), {}});
    else if (!zones.empty())
      zones.back().lines.emplace_back(*line);
  }
  if (zones.empty()) return fail(EINVAL, "parse zoneinfo");
  return zones;
}

Result<Slabinfo> parse_slabinfo(std::string_view text) {
  Slabinfo slabinfo{"", std::string(text)};
  while (auto line = next_line(text)) {
    if (!line->starts_with("slabinfo") && !line->starts_with('#')) break;
    slabinfo.heading += std::string(*line) + "\n";
  }
  if (slabinfo.heading.empty()) return fail(EINVAL, "parse slabinfo");
  return slabinfo;
}

Result<std::vector<Controller>> parse_cgroups(std::string_view text) {
  std::vector<Controller> controllers;
  while (auto line = next_line(text)) {
    if (line->starts_with('#')) continue;
    std::string_view rest = *line;
    const std::string_view name = next_word(rest);
    const auto hierarchy = parse_u64(next_word(rest)), cgroups = parse_u64(next_word(rest));
    const auto enabled = parse_u64(next_word(rest));
    if (name.empty() || !hierarchy || !cgroups || !enabled) return fail(EINVAL, "parse cgroups");
    controllers.push_back({std::string(name), *hierarchy, *cgroups, *enabled != 0});
  }
  return controllers;
}

Result<std::vector<Buddy>> parse_buddyinfo(std::string_view text) {
  std::vector<Buddy> buddies;
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    const auto head = parse_zone_head(rest);
    if (!head) return fail(EINVAL, "parse buddyinfo");
    Buddy buddy{head->node, std::string(head->zone), {}};
    while (const auto count = parse_u64(next_word(rest))) buddy.free.push_back(*count);
    buddies.push_back(std::move(buddy));
  }
  return buddies;
}

}  // namespace umwelt::host
