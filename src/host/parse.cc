// SPDX-License-Identifier: Apache-2.0
#include "host/parse.h"

#include <algorithm>
#include <optional>
#include <string>

#include "base/parse.h"

namespace umwelt::host {
namespace {

// Where a "key : value" line ends its key and starts its value; the blanks around the colon are
// the separator's.
CpuinfoField parse_field(std::string_view line) {
  const std::size_t colon = line.find(':');
  if (colon == std::string_view::npos) return {std::string(line), "", ""};
  std::size_t key_end = colon;
  while (key_end > 0 && (line[key_end - 1] == '\t' || line[key_end - 1] == ' ')) --key_end;
  std::size_t value = colon + 1;
  if (value < line.size() && line[value] == ' ') ++value;
  return {std::string(line.substr(0, key_end)), std::string(line.substr(key_end, value - key_end)),
          std::string(line.substr(value))};
}

// "processor : 3", on s390 "cpu number : 3": the line that begins a CPU.
std::optional<unsigned> parse_processor(const CpuinfoField& field) {
  if (field.key != "processor" && field.key != "cpu number") return std::nullopt;
  const auto id = parse_u64(trim(field.value));
  if (!id || *id > CpuSet::kMaxId) return std::nullopt;
  return static_cast<unsigned>(*id);
}

// The next line with its '\n', where it has one.
std::string_view cut_line(std::string_view& rest) {
  const std::size_t end = rest.find('\n');
  const std::string_view line = rest.substr(0, end == std::string_view::npos ? end : end + 1);
  rest.remove_prefix(line.size());
  return line;
}

std::size_t count_words(std::string_view rest) {
  std::size_t count = 0;
  while (!next_word(rest).empty()) ++count;
  return count;
}

CpuTicks parse_ticks(std::string_view rest) {
  // Kernels before 2.6.33 have fewer columns.
  static constexpr std::uint64_t CpuTicks::*kColumns[] = {
      &CpuTicks::user,   &CpuTicks::nice,      &CpuTicks::system,  &CpuTicks::idle,
      &CpuTicks::iowait, &CpuTicks::irq,       &CpuTicks::softirq, &CpuTicks::steal,
      &CpuTicks::guest,  &CpuTicks::guest_nice};
  CpuTicks ticks;
  for (auto column : kColumns) {
    const auto value = parse_u64(next_word(rest));
    if (!value) break;
    ticks.*column = *value;
  }
  return ticks;
}

// Seconds with a fraction, as /proc/uptime has them, to ns.
std::optional<std::uint64_t> parse_seconds(std::string_view word) {
  const std::size_t point = word.find('.');
  const auto seconds = parse_u64(word.substr(0, point));
  if (!seconds) return std::nullopt;
  std::uint64_t ns = 0;
  if (point != std::string_view::npos) {
    std::string_view digits = word.substr(point + 1);
    if (digits.empty() || digits.size() > 9) return std::nullopt;
    const auto fraction = parse_u64(digits);
    if (!fraction) return std::nullopt;
    ns = *fraction;
    for (std::size_t i = digits.size(); i < 9; ++i) ns *= 10;
  }
  return saturating_add(mul_div(*seconds, 1'000'000'000, 1), ns);
}

}  // namespace

Result<Cpuinfo> parse_cpuinfo(std::string_view text) {
  Cpuinfo info;
  std::string between;    // what follows the last field so far
  bool in_block = false;  // false after a blank line
  while (!text.empty()) {
    const std::string_view line = cut_line(text);
    const bool whole = line.ends_with('\n');
    const std::string_view content = whole ? line.substr(0, line.size() - 1) : line;
    CpuinfoField field = parse_field(content);
    if (const auto id = whole ? parse_processor(field) : std::nullopt) {
      (info.blocks.empty() ? info.header : info.blocks.back().end) = std::move(between);
      between.clear();
      info.blocks.push_back({*id, {std::move(field)}, ""});
      in_block = true;
    } else if (in_block && whole && !content.empty()) {
      info.blocks.back().fields.push_back(std::move(field));
    } else {
      in_block = false;
      between += line;
    }
  }
  if (info.blocks.empty()) {
    info.header = std::move(between);
    return info;
  }
  const std::size_t blank_lines = std::min(between.find_first_not_of('\n'), between.size());
  info.blocks.back().end = between.substr(0, blank_lines);
  info.trailer = between.substr(blank_lines);
  return info;
}

Result<Meminfo> parse_meminfo(std::string_view text) {
  Meminfo info;
  while (auto line = next_line(text)) {
    const std::size_t colon = line->find(':');
    if (colon == std::string_view::npos) continue;
    std::string_view rest = line->substr(colon + 1);
    const auto value = parse_u64(next_word(rest));
    if (!value) continue;
    MeminfoRow row{std::string(line->substr(0, colon)), *value, next_word(rest) == "kB"};
    if (row.kib) row.value = mul_div(row.value, 1024, 1);
    info.rows.push_back(std::move(row));
  }
  if (info.rows.empty()) return fail(EINVAL, "parse meminfo");
  return info;
}

Result<Meminfo> parse_node_meminfo(std::string_view text) {
  Meminfo info = UMWELT_TRY(parse_meminfo(text));
  for (MeminfoRow& row : info.rows) {
    std::string_view key = row.key;
    if (next_word(key) != "Node" || !parse_u64(next_word(key)))
      return fail(EINVAL, "parse a node's meminfo");
    row.key = trim(key);
  }
  return info;
}

Result<Stat> parse_stat(std::string_view text) {
  static constexpr KeyedField<Stat> kNumbers[] = {
      {"ctxt", &Stat::ctxt},
      {"btime", &Stat::btime},
      {"processes", &Stat::processes},
      {"procs_running", &Stat::procs_running},
      {"procs_blocked", &Stat::procs_blocked},
  };
  const std::string_view whole = text;
  Stat stat;
  stat.text = text;
  bool found = false;
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    const std::string_view key = next_word(rest);
    if (key == "cpu") {
      stat.total = parse_ticks(rest);
      found = true;
    } else if (key.starts_with("cpu")) {
      const auto id = parse_u64(key.substr(3));
      if (id && *id <= CpuSet::kMaxId)
        stat.cpus.emplace_back(static_cast<unsigned>(*id), parse_ticks(rest));
    } else if (key == "intr" || key == "softirq") {
      const auto sum = parse_u64(next_word(rest));
      if (!sum) continue;
      (key == "intr" ? stat.intr : stat.softirq) = *sum;
      (key == "intr" ? stat.intr_columns : stat.softirq_columns) = count_words(rest);
    }
  }
  if (!found) return fail(EINVAL, "parse stat");
  parse_keyed<Stat>(whole, kNumbers, stat);
  std::sort(stat.cpus.begin(), stat.cpus.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  const auto twice =
      std::adjacent_find(stat.cpus.begin(), stat.cpus.end(),
                         [](const auto& a, const auto& b) { return a.first == b.first; });
  if (twice != stat.cpus.end()) return fail(EINVAL, "parse stat");
  return stat;
}

Result<std::vector<Swap>> parse_swaps(std::string_view text) {
  std::vector<Swap> swaps;
  next_line(text);  // the heading
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    Swap swap;
    swap.filename = unescape_octal(next_word(rest));
    swap.type = std::string(next_word(rest));
    const auto size = parse_u64(next_word(rest));
    const auto used = parse_u64(next_word(rest));
    const auto priority = parse_i64(next_word(rest));
    if (!size || !used || !priority) return fail(EINVAL, "parse swaps");
    swap.size_bytes = mul_div(*size, 1024, 1);
    swap.used_bytes = mul_div(*used, 1024, 1);
    swap.priority = *priority;
    swaps.push_back(std::move(swap));
  }
  return swaps;
}

Result<Uptime> parse_uptime(std::string_view text) {
  std::string_view rest = trim(text);
  const auto uptime = parse_seconds(next_word(rest));
  const auto idle = parse_seconds(next_word(rest));
  if (!uptime || !idle) return fail(EINVAL, "parse uptime");
  return Uptime{*uptime, *idle};
}

Result<Loadavg> parse_loadavg(std::string_view text) {
  std::string_view rest = trim(text);
  const auto load1 = parse_decimal(next_word(rest));
  const auto load5 = parse_decimal(next_word(rest));
  const auto load15 = parse_decimal(next_word(rest));
  const std::string_view tasks = next_word(rest);
  const auto last_pid = parse_u64(next_word(rest));
  const std::size_t slash = std::min(tasks.find('/'), tasks.size());
  const auto running = parse_u64(tasks.substr(0, slash));
  const auto total = parse_u64(tasks.substr(std::min(slash + 1, tasks.size())));
  if (!load1 || !load5 || !load15 || !running || !total || !last_pid)
    return fail(EINVAL, "parse loadavg");
  return Loadavg{*load1, *load5, *load15, *running, *total, *last_pid};
}

}  // namespace umwelt::host
