// SPDX-License-Identifier: Apache-2.0
#include "cgroup/limits.h"

#include <array>

#include "base/parse.h"
#include "cgroup/parse.h"

namespace umwelt::cgroup {
namespace {

using Text = std::optional<std::string_view>;
using Bytes = std::optional<std::uint64_t>;

// The nearest set that `accept` takes. Kernels before 4.2 have no effective_ files on v1.
template <class Accept>
Result<std::optional<CpuSet>> nearest_set(const Directory& directory,
                                          std::array<std::string_view, 2> files,
                                          std::string& buffer, Accept accept) {
  for (unsigned level = 0; level <= directory.depth(); ++level) {
    for (const std::string_view file : files) {
      const Text text = UMWELT_TRY(directory.read(level, file, buffer));
      if (!text) continue;
      const auto set = CpuSet::parse(*text);
      if (!set) return fail(EINVAL, "parse " + std::string(file));
      if (auto accepted = accept(*set); !accepted.empty()) return std::optional(accepted);
      break;
    }
  }
  return std::optional<CpuSet>();
}

bool smaller(const Bandwidth& a, const Bandwidth& b) {
  __extension__ typedef unsigned __int128 Wide;
  return static_cast<Wide>(a.quota_us) * b.period_us < static_cast<Wide>(b.quota_us) * a.period_us;
}

Result<std::optional<Bandwidth>> read_bandwidth_at(const Directory& directory, unsigned level,
                                                   std::string& buffer) {
  if (directory.v2()) {
    const Text text = UMWELT_TRY(directory.read(level, "cpu.max", buffer));
    return text ? parse_cpu_max(*text) : std::optional<Bandwidth>();
  }
  const Text quota = UMWELT_TRY(directory.read(level, "cpu.cfs_quota_us", buffer));
  if (!quota) return std::optional<Bandwidth>();
  const std::string quota_text(*quota);
  const Text period = UMWELT_TRY(directory.read(level, "cpu.cfs_period_us", buffer));
  return period ? parse_cfs(quota_text, *period) : std::optional<Bandwidth>();
}

// v1 before 5.11: whether this level's limits hold for the levels below it.
Result<bool> limits_children(const Directory& directory, unsigned level, std::string& buffer) {
  if (directory.v2()) return true;
  const Text text = UMWELT_TRY(directory.read(level, "memory.use_hierarchy", buffer));
  return !text || trim(*text) != "0";
}

}  // namespace

Result<CpuSet> read_cpus(const Directory& directory, const CpuSet& online, std::string& buffer) {
  using Files = std::array<std::string_view, 2>;
  // A v1 cpuset without a CPU, or whose last CPU went offline, has its tasks in an ancestor's.
  const auto nearest = UMWELT_TRY(
      nearest_set(directory,
                  directory.v2() ? Files{"cpuset.cpus.effective", "cpuset.cpus.effective"}
                                 : Files{"cpuset.effective_cpus", "cpuset.cpus"},
                  buffer, [&](const CpuSet& set) { return set & online; }));
  return nearest.value_or(online);
}

Result<CpuSet> read_mems(const Directory& directory, std::string& buffer) {
  using Files = std::array<std::string_view, 2>;
  const auto nearest = UMWELT_TRY(
      nearest_set(directory,
                  directory.v2() ? Files{"cpuset.mems.effective", "cpuset.mems.effective"}
                                 : Files{"cpuset.effective_mems", "cpuset.mems"},
                  buffer, [](const CpuSet& set) { return set; }));
  return nearest.value_or(CpuSet());
}

Result<BandwidthLimit> read_bandwidth(const Directory& directory, std::string& buffer) {
  BandwidthLimit limit;
  for (unsigned level = 0; level <= directory.depth(); ++level) {
    const auto here = UMWELT_TRY(read_bandwidth_at(directory, level, buffer));
    if (!here) continue;
    limit.of_ancestor = limit.of_ancestor || level > 0;
    if (limit.bandwidth && !smaller(*here, *limit.bandwidth)) continue;
    limit.bandwidth = here;
    limit.level = level;
  }
  return limit;
}

Result<MemoryLimit> read_memory_limit(const Directory& directory, std::string& buffer) {
  const bool v2 = directory.v2();
  const auto parse = v2 ? parse_max : parse_limit_in_bytes;
  MemoryLimit limit;
  Bytes swap_max;  // v1: of memory and swap together
  for (unsigned level = 0; level <= directory.depth(); ++level) {
    if (level > 0 && !UMWELT_TRY(limits_children(directory, level, buffer))) break;
    const Text max =
        UMWELT_TRY(directory.read(level, v2 ? "memory.max" : "memory.limit_in_bytes", buffer));
    const Bytes here = max ? UMWELT_TRY(parse(*max)) : Bytes();
    if (here && (!limit.max_bytes || *here <= *limit.max_bytes)) {
      limit.max_bytes = here;
      limit.level = level;
      limit.above.clear();
    } else if (here) {
      limit.above.push_back({level, *here});
    }
    const Text swap = UMWELT_TRY(
        directory.read(level, v2 ? "memory.swap.max" : "memory.memsw.limit_in_bytes", buffer));
    const Bytes swap_here = swap ? UMWELT_TRY(parse(*swap)) : Bytes();
    if (swap_here && (!swap_max || *swap_here <= *swap_max)) {
      swap_max = swap_here;
      limit.swap_level = level;
    }
  }
  // What reaches its limit with a swappiness of 0 is killed, however much swap it may have
  // (get_scan_count() in mm/vmscan.c). The root's is the machine's.
  if (!v2 && directory.depth() > 0) {
    const Text swappiness = UMWELT_TRY(directory.read(0, "memory.swappiness", buffer));
    limit.swaps = !swappiness || trim(*swappiness) != "0";
  }
  if (swap_max && !v2) swap_max = saturating_sub(*swap_max, limit.max_bytes.value_or(0));
  limit.swap_max_bytes = swap_max;
  return limit;
}

Result<SmallestLimit> read_smallest(const Directory& directory, const std::string& file,
                                    std::string& buffer) {
  const auto parse = file.ends_with("limit_in_bytes") ? parse_limit_in_bytes : parse_max;
  SmallestLimit found;
  for (unsigned level = 0; level <= directory.depth(); ++level) {
    const Text text = UMWELT_TRY(directory.read(level, file, buffer));
    const Bytes here = text ? UMWELT_TRY(parse(*text)) : Bytes();
    if (here && (!found.max || *here <= *found.max)) found = {here, level};
  }
  return found;
}

}  // namespace umwelt::cgroup
