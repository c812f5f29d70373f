// SPDX-License-Identifier: Apache-2.0
#include "cgroup/parse.h"

#include <algorithm>
#include <span>

#include "base/parse.h"

namespace umwelt::cgroup {
namespace {

// A row of a memory.stat table; one of the two is null.
struct StatField {
  std::string_view key;
  std::uint64_t MemoryStat::*always = nullptr;
  std::optional<std::uint64_t> MemoryStat::*maybe = nullptr;
};

constexpr StatField kMemoryStatV2[] = {
    {"anon", &MemoryStat::anon, nullptr},
    {"file", &MemoryStat::file, nullptr},
    {"kernel", nullptr, &MemoryStat::kernel},
    {"kernel_stack", nullptr, &MemoryStat::kernel_stack},
    {"pagetables", nullptr, &MemoryStat::pagetables},
    {"sec_pagetables", nullptr, &MemoryStat::sec_pagetables},
    {"percpu", nullptr, &MemoryStat::percpu},
    {"sock", nullptr, &MemoryStat::sock},
    {"vmalloc", nullptr, &MemoryStat::vmalloc},
    {"shmem", &MemoryStat::shmem, nullptr},
    {"zswap", nullptr, &MemoryStat::zswap},
    {"zswapped", nullptr, &MemoryStat::zswapped},
    {"file_mapped", &MemoryStat::file_mapped, nullptr},
    {"file_dirty", &MemoryStat::file_dirty, nullptr},
    {"file_writeback", &MemoryStat::file_writeback, nullptr},
    {"swapcached", &MemoryStat::swapcached, nullptr},
    {"anon_thp", &MemoryStat::anon_thp, nullptr},
    {"file_thp", nullptr, &MemoryStat::file_thp},
    {"shmem_thp", nullptr, &MemoryStat::shmem_thp},
    {"inactive_anon", &MemoryStat::inactive_anon, nullptr},
    {"active_anon", &MemoryStat::active_anon, nullptr},
    {"inactive_file", &MemoryStat::inactive_file, nullptr},
    {"active_file", &MemoryStat::active_file, nullptr},
    {"unevictable", &MemoryStat::unevictable, nullptr},
    {"slab_reclaimable", nullptr, &MemoryStat::slab_reclaimable},
    {"slab_unreclaimable", nullptr, &MemoryStat::slab_unreclaimable},
};

constexpr StatField kMemoryStatV1[] = {
    {"total_cache", &MemoryStat::file, nullptr},
    {"total_rss", &MemoryStat::anon, nullptr},
    {"total_rss_huge", &MemoryStat::anon_thp, nullptr},
    {"total_shmem", &MemoryStat::shmem, nullptr},
    {"total_mapped_file", &MemoryStat::file_mapped, nullptr},
    {"total_dirty", &MemoryStat::file_dirty, nullptr},
    {"total_writeback", &MemoryStat::file_writeback, nullptr},
    {"total_swapcached", &MemoryStat::swapcached, nullptr},
    {"total_inactive_anon", &MemoryStat::inactive_anon, nullptr},
    {"total_active_anon", &MemoryStat::active_anon, nullptr},
    {"total_inactive_file", &MemoryStat::inactive_file, nullptr},
    {"total_active_file", &MemoryStat::active_file, nullptr},
    {"total_unevictable", &MemoryStat::unevictable, nullptr},
};

// The value of a whole key in "KEY VALUE" lines.
std::optional<std::uint64_t> find_value(std::string_view text, std::string_view key) {
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    if (next_word(rest) == key) return parse_u64(next_word(rest));
  }
  return std::nullopt;
}

unsigned parse_stat_fields(std::string_view text, std::span<const StatField> table,
                           MemoryStat& out) {
  unsigned found = 0;
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    const std::string_view key = next_word(rest);
    const auto row = std::find_if(table.begin(), table.end(),
                                  [&](const StatField& field) { return field.key == key; });
    if (row == table.end()) continue;
    const auto value = parse_u64(next_word(rest));
    if (!value) continue;
    if (row->always)
      out.*row->always = *value;
    else
      out.*row->maybe = *value;
    ++found;
  }
  return found;
}

}  // namespace

Result<std::optional<std::uint64_t>> parse_max(std::string_view text) {
  text = trim(text);
  if (text == "max") return std::optional<std::uint64_t>();
  const auto value = parse_u64(text);
  if (!value) return fail(EINVAL, "parse a limit");
  return value;
}

Result<std::optional<std::uint64_t>> parse_limit_in_bytes(std::string_view text) {
  constexpr std::uint64_t kUnlimited = std::uint64_t{1} << 62;
  const auto value = parse_u64(trim(text));
  if (!value) return fail(EINVAL, "parse limit_in_bytes");
  return *value >= kUnlimited ? std::optional<std::uint64_t>() : value;
}

Result<std::optional<Bandwidth>> parse_cpu_max(std::string_view text) {
  std::string_view rest = trim(text);
  const auto quota = UMWELT_TRY(parse_max(next_word(rest)));
  const auto period = parse_u64(next_word(rest));
  if (!period || *period == 0) return fail(EINVAL, "parse cpu.max");
  if (!quota) return std::optional<Bandwidth>();
  return std::optional(Bandwidth{*quota, *period});
}

Result<std::optional<Bandwidth>> parse_cfs(std::string_view quota, std::string_view period) {
  const auto quota_us = parse_i64(trim(quota));
  const auto period_us = parse_u64(trim(period));
  if (!quota_us || !period_us || *period_us == 0) return fail(EINVAL, "parse cpu.cfs_quota_us");
  if (*quota_us < 0) return std::optional<Bandwidth>();
  return std::optional(Bandwidth{static_cast<std::uint64_t>(*quota_us), *period_us});
}

Result<MemoryStat> parse_memory_stat_v2(std::string_view text) {
  MemoryStat stat;
  if (parse_stat_fields(text, kMemoryStatV2, stat) == 0) return fail(EINVAL, "parse memory.stat");
  return stat;
}

Result<MemoryStatV1> parse_memory_stat_v1(std::string_view text) {
  MemoryStatV1 out;
  if (parse_stat_fields(text, kMemoryStatV1, out.stat) == 0)
    return fail(EINVAL, "parse memory.stat");
  out.swap_bytes = find_value(text, "total_swap");
  return out;
}

MemoryEvents parse_memory_events(std::string_view text, bool v2) {
  constexpr std::string_view kTotal = "total_";
  MemoryEvents events;
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    std::string_view key = next_word(rest);
    if (!v2) {
      if (!key.starts_with(kTotal)) continue;
      key.remove_prefix(kTotal.size());
    }
    if (const auto value = parse_u64(next_word(rest))) events.emplace_back(key, *value);
  }
  return events;
}

std::string_view memory_stat_key_v1(std::string_view v2_key) {
  for (const StatField& v2 : kMemoryStatV2) {
    if (v2.key != v2_key) continue;
    for (const StatField& v1 : kMemoryStatV1)
      if (v1.always == v2.always && v1.maybe == v2.maybe) return v1.key;
  }
  return {};
}

Result<CpuStat> parse_cpu_stat(std::string_view text) {
  static constexpr KeyedField<CpuStat> kFields[] = {
      {"usage_usec", &CpuStat::usage_us},         {"user_usec", &CpuStat::user_us},
      {"system_usec", &CpuStat::system_us},       {"nice_usec", &CpuStat::nice_us},
      {"throttled_usec", &CpuStat::throttled_us},
  };
  CpuStat stat;
  if (parse_keyed<CpuStat>(text, kFields, stat) == 0) return fail(EINVAL, "parse cpu.stat");
  return stat;
}

Result<std::uint64_t> parse_throttled_time_v1(std::string_view text) {
  const auto value = find_value(text, "throttled_time");
  if (!value) return fail(EINVAL, "parse cpu.stat");
  return *value;
}

Result<std::vector<std::uint64_t>> parse_usage_percpu(std::string_view text) {
  std::vector<std::uint64_t> usage;
  std::string_view rest = trim(text);
  for (std::string_view word = next_word(rest); !word.empty(); word = next_word(rest)) {
    const auto value = parse_u64(word);
    if (!value || usage.size() > CpuSet::kMaxId) return fail(EINVAL, "parse cpuacct.usage_percpu");
    usage.push_back(*value);
  }
  if (usage.empty()) return fail(EINVAL, "parse cpuacct.usage_percpu");
  return usage;
}

Result<CpuacctStat> parse_cpuacct_stat(std::string_view text) {
  static constexpr KeyedField<CpuacctStat> kFields[] = {{"user", &CpuacctStat::user},
                                                        {"system", &CpuacctStat::system}};
  CpuacctStat stat;
  if (parse_keyed<CpuacctStat>(text, kFields, stat) == 0) return fail(EINVAL, "parse cpuacct.stat");
  return stat;
}

Result<char> parse_task_state(std::string_view stat) {
  const std::size_t name_end = stat.rfind(')');
  if (name_end == std::string_view::npos) return fail(EINVAL, "parse /proc/PID/stat");
  std::string_view rest = stat.substr(name_end + 1);
  const std::string_view state = next_word(rest);
  if (state.size() != 1) return fail(EINVAL, "parse /proc/PID/stat");
  return state.front();
}

std::vector<std::uint32_t> parse_ids(std::string_view text) {
  std::vector<std::uint32_t> ids;
  while (auto line = next_line(text)) {
    const auto id = parse_u64(trim(*line));
    if (id && *id > 0 && *id <= std::numeric_limits<std::uint32_t>::max())
      ids.push_back(static_cast<std::uint32_t>(*id));
  }
  return ids;
}

}  // namespace umwelt::cgroup
