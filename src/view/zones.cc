// SPDX-License-Identifier: Apache-2.0
// /proc/zoneinfo and /proc/buddyinfo (mm/vmstat.c): the zones of the memory nodes that the
// container may use. Its memory is spread over them in proportion to what they have, so that they
// add up to MemTotal and MemFree. /proc/pagetypeinfo has none of it.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "base/parse.h"
#include "view/files.h"

namespace umwelt::view {
namespace {

constexpr std::uint64_t kPage = 4096;

struct ShownZone {
  const host::Zone* zone = nullptr;
  std::uint64_t total_pages = 0, free_pages = 0;
};

std::uint64_t managed_pages(const host::Zone& zone) {
  for (std::string_view line : zone.lines)
    if (next_word(line) == "managed") return parse_u64(next_word(line)).value_or(0);
  return 0;
}

std::vector<ShownZone> shown_zones(const Resources& r) {
  std::vector<ShownZone> zones;
  std::vector<std::uint64_t> managed;
  std::uint64_t sum = 0;
  for (const host::Zone& zone : *r.host.zoneinfo) {
    if (!r.nodes.has_memory.empty() && !r.nodes.has_memory.test(zone.node)) continue;
    zones.push_back({&zone, 0, 0});
    managed.push_back(managed_pages(zone));
    sum = saturating_add(sum, managed.back());
  }
  // What is left of whole pages goes to the later zones, so that the sums are exact.
  const auto share = [&](std::uint64_t pages, std::uint64_t before, std::uint64_t own) {
    return mul_div(pages, saturating_add(before, own), sum) - mul_div(pages, before, sum);
  };
  std::uint64_t before = 0;
  for (std::size_t i = 0; i < zones.size() && sum > 0; ++i) {
    zones[i].total_pages = share(r.memory.total / kPage, before, managed[i]);
    zones[i].free_pages = share(r.memory.free / kPage, before, managed[i]);
    before = saturating_add(before, managed[i]);
  }
  return zones;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// The line with every number as `value`; digits within names ("Node0") are none.
std::string with_numbers(std::string_view line, std::uint64_t value) {
  std::string text;
  for (std::size_t i = 0; i < line.size();) {
    const bool starts = is_digit(line[i]) && (i == 0 || line[i - 1] == ' ' || line[i - 1] == '(');
    if (!starts) {
      text += line[i++];
      continue;
    }
    while (i < line.size() && is_digit(line[i])) ++i;
    fmt::format_to(std::back_inserter(text), "{}", value);
  }
  return text;
}

std::string_view key_of(std::string_view line) {
  const std::string_view first = next_word(line);
  return first == "pages" ? next_word(line) : first;
}

std::string shown_line(const Resources& r, const ShownZone& zone, std::string_view line) {
  if (!r.memory.limited) return std::string(line);
  const std::string_view key = key_of(line);
  if (key == "free" || key == "nr_free_pages") return with_numbers(line, zone.free_pages);
  if (key == "spanned" || key == "present" || key == "managed")
    return with_numbers(line, zone.total_pages);
  return with_numbers(line, 0);
}

// Follow the last CPU's lines in a zone.
bool ends_pagesets(std::string_view key) {
  return key == "node_unreclaimable:" || key == "start_pfn:";
}

void append_zone(std::string& text, const Resources& r, const ShownZone& zone) {
  fmt::format_to(std::back_inserter(text), "Node {}, zone {:>8}\n", zone.zone->node,
                 zone.zone->name);
  bool visible = true;  // not of a CPU that is not shown
  for (const std::string& line : zone.zone->lines) {
    std::string_view rest = line;
    const std::string_view key = next_word(rest);
    if (key == "cpu:") {
      const auto physical = parse_u64(next_word(rest));
      const auto shown =
          std::find_if(r.cpus.shown.begin(), r.cpus.shown.end(),
                       [&](const ShownCpu& cpu) { return cpu.physical == physical; });
      visible = shown != r.cpus.shown.end();
      if (visible) fmt::format_to(std::back_inserter(text), "    cpu: {}\n", shown->id);
      continue;
    }
    if (ends_pagesets(key)) visible = true;
    if (visible) text += shown_line(r, zone, line) + "\n";
  }
}

void append_buddy(std::string& text, const host::Buddy& buddy,
                  const std::vector<std::uint64_t>& free) {
  fmt::format_to(std::back_inserter(text), "Node {}, zone {:>8} ", buddy.node, buddy.zone);
  for (const std::uint64_t areas : free) fmt::format_to(std::back_inserter(text), "{:>6} ", areas);
  text += '\n';
}

// `pages` in as few areas as can be.
std::vector<std::uint64_t> areas_of(std::uint64_t pages, std::size_t orders) {
  std::vector<std::uint64_t> free(orders);
  for (std::size_t order = std::min<std::size_t>(orders, 63); order-- > 0;) {
    free[order] = pages >> order;
    pages -= free[order] << order;
  }
  return free;
}

}  // namespace

std::string render_zoneinfo(const Resources& r) {
  std::string text;
  if (!r.host.zoneinfo) return text;
  for (const ShownZone& zone : shown_zones(r)) append_zone(text, r, zone);
  return text;
}

std::string render_buddyinfo(const Resources& r) {
  std::string text;
  if (!r.host.buddyinfo || !r.host.zoneinfo) return text;
  const std::vector<ShownZone> zones = shown_zones(r);
  for (const host::Buddy& buddy : *r.host.buddyinfo) {
    const auto zone = std::find_if(zones.begin(), zones.end(), [&](const ShownZone& candidate) {
      return candidate.zone->node == buddy.node && candidate.zone->name == buddy.zone;
    });
    if (zone == zones.end()) continue;
    append_buddy(text, buddy,
                 r.memory.limited ? areas_of(zone->free_pages, buddy.free.size()) : buddy.free);
  }
  return text;
}

// No cgroup has a part of the machine's blocks.
std::string render_pagetypeinfo(const Resources&) { return {}; }

}  // namespace umwelt::view
