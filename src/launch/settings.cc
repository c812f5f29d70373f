// SPDX-License-Identifier: Apache-2.0
#include "launch/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>
#include <set>
#include <utility>

#include "base/file.h"
#include "base/parse.h"
#include "launch/cgroup.h"

namespace umwelt::launch {
namespace {

constexpr std::uint64_t kLeastMemoryBytes = 4U << 20;
constexpr std::uint64_t kLeastPeriodUs = 1000, kMostPeriodUs = 1000000;
constexpr std::uint64_t kLeastQuotaUs = 1000;

std::string text_of(std::uint64_t number) { return std::to_string(number); }

void add_cpusets(const ResourceLimits& limits, std::vector<Setting>& out) {
  if (limits.cpuset_cpus)
    out.push_back({"cpuset", "cpuset.cpus", limits.cpuset_cpus->list(), "--cpuset-cpus"});
  if (limits.cpuset_mems)
    out.push_back({"cpuset", "cpuset.mems", limits.cpuset_mems->list(), "--cpuset-mems"});
}

// The limit of memory and swap together that `limits` ask for; nullopt: leave it.
std::optional<std::uint64_t> memory_swap(const ResourceLimits& limits,
                                         const MemoryLimits& current) {
  if (limits.memory_swap_unlimited) return std::nullopt;
  if (limits.memory_swap_bytes) return limits.memory_swap_bytes;
  if (!limits.memory_bytes || !current.swap_accounting) return std::nullopt;
  const std::uint64_t swap = current.memory_bytes && current.memory_swap_bytes
                                 ? saturating_sub(*current.memory_swap_bytes, *current.memory_bytes)
                                 : *limits.memory_bytes;
  return saturating_add(*limits.memory_bytes, swap);
}

Result<void> check_subset(const std::optional<CpuSet>& wanted, const char* option,
                          const std::string& file, const char* what) {
  if (!wanted) return {};
  const auto text = UMWELT_TRY(read_optional_at(AT_FDCWD, file));
  // A kernel without NUMA support has no file of nodes, and node 0.
  const auto there = CpuSet::parse(text.value_or("0"));
  if (!there) return fail(EIO, "read " + file);
  if (wanted->empty()) return fail(EINVAL, fmt::format("{}: an empty set of {}", option, what));
  const CpuSet missing = *wanted - *there;
  if (missing.empty()) return {};
  return fail(0, fmt::format("{} {}: this host has no {} {}, choose from {}", option,
                             wanted->list(), what, missing.list(), there->list()));
}

}  // namespace

std::uint64_t weight_of_shares(std::uint64_t shares) { return 1 + (shares - 2) * 9999 / 262142; }

// Memory first: where more of it is used than it may be, the kernel refuses that, and the others
// stay as they are.
std::vector<Setting> settings_v1(const ResourceLimits& limits, const MemoryLimits& current) {
  std::vector<Setting> out;
  std::optional<Setting> memory, swap;
  if (limits.memory_bytes)
    memory = {"memory", "memory.limit_in_bytes", text_of(*limits.memory_bytes), "--memory"};
  if (const auto bytes = memory_swap(limits, current))
    swap = {"memory", "memory.memsw.limit_in_bytes", text_of(*bytes), "--memory-swap"};
  if (limits.memory_swap_unlimited)
    swap = {"memory", "memory.memsw.limit_in_bytes", "-1", "--memory-swap"};
  // Raised: swap first, so that memory stays below it. Lowered: memory first.
  const bool swap_first = memory && swap && current.memory_swap_bytes &&
                          *limits.memory_bytes > *current.memory_swap_bytes;
  if (swap && swap_first) out.push_back(*swap);
  if (memory) out.push_back(*memory);
  if (swap && !swap_first) out.push_back(*swap);

  add_cpusets(limits, out);
  if (limits.bandwidth) {
    out.push_back(
        {"cpu", "cpu.cfs_period_us", text_of(limits.bandwidth->period_us), "--cpu-period"});
    out.push_back({"cpu", "cpu.cfs_quota_us", text_of(limits.bandwidth->quota_us), "--cpus"});
  }
  if (limits.cpu_shares)
    out.push_back({"cpu", "cpu.shares", text_of(*limits.cpu_shares), "--cpu-shares"});
  if (limits.pids_limit)
    out.push_back({"pids", "pids.max", text_of(*limits.pids_limit), "--pids-limit"});
  return out;
}

std::vector<Setting> settings_v2(const ResourceLimits& limits, const MemoryLimits& current) {
  std::vector<Setting> out;
  add_cpusets(limits, out);
  if (limits.bandwidth)
    out.push_back({"cpu", "cpu.max",
                   fmt::format("{} {}", limits.bandwidth->quota_us, limits.bandwidth->period_us),
                   "--cpus"});
  if (limits.cpu_shares)
    out.push_back(
        {"cpu", "cpu.weight", text_of(weight_of_shares(*limits.cpu_shares)), "--cpu-shares"});
  if (limits.memory_bytes)
    out.push_back({"memory", "memory.max", text_of(*limits.memory_bytes), "--memory"});
  const auto memory = limits.memory_bytes ? limits.memory_bytes : current.memory_bytes;
  if (limits.memory_swap_unlimited) {
    out.push_back({"memory", "memory.swap.max", "max", "--memory-swap"});
  } else if (limits.memory_swap_bytes && memory) {
    out.push_back({"memory", "memory.swap.max",
                   text_of(saturating_sub(*limits.memory_swap_bytes, *memory)), "--memory-swap"});
  } else if (limits.memory_bytes && !current.memory_bytes && current.swap_accounting) {
    out.push_back({"memory", "memory.swap.max", text_of(*limits.memory_bytes), "--memory"});
  }
  if (limits.pids_limit)
    out.push_back({"pids", "pids.max", text_of(*limits.pids_limit), "--pids-limit"});
  return out;
}

std::vector<Setting> settings_of(const ResourceLimits& limits, const MemoryLimits& current,
                                 const std::map<std::string, std::string>& v1) {
  std::vector<Setting> out;
  for (Setting& setting : settings_v1(limits, current))
    if (v1.contains(setting.controller)) out.push_back(std::move(setting));
  for (Setting& setting : settings_v2(limits, current))
    if (!v1.contains(setting.controller)) out.push_back(std::move(setting));
  return out;
}

std::vector<std::string> choose_v2_controllers(std::string_view cgroup_controllers, bool v2_alone) {
  constexpr std::array<std::string_view, 4> kLimited = {"cpu", "cpuset", "memory", "pids"};
  constexpr std::array<std::string_view, 2> kCounted = {"io", "hugetlb"};
  const auto in = [](const auto& names, std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  std::vector<std::string> chosen;
  for (std::string_view rest = trim(cgroup_controllers); !rest.empty();) {
    const std::string_view word = next_word(rest);
    if (in(kLimited, word)) v2_alone = true;
    if (in(kLimited, word) || in(kCounted, word)) chosen.emplace_back(word);
  }
  if (!v2_alone) chosen.clear();
  return chosen;
}

std::vector<std::string> enable_controllers(const std::string& directory,
                                            const std::vector<std::string>& controllers) {
  // With a process in it, the kernel refuses some, and by the others makes it the root of threaded
  // cgroups, in whose children no process can live. The machine's root, without a type, may do
  // both.
  const bool occupied = std::filesystem::exists(directory + "/cgroup.type") &&
                        read_file(directory + "/cgroup.procs").value_or("?") != "";
  const std::string file = directory + "/cgroup.subtree_control";
  const std::string text = read_file(file).value_or("");
  std::set<std::string_view> enabled;
  for (std::string_view rest = trim(text); !rest.empty();) enabled.insert(next_word(rest));
  std::vector<std::string> result;
  for (const std::string& controller : controllers)
    if (enabled.contains(controller) ||
        (!occupied && write_file_at(AT_FDCWD, file, "+" + controller)))
      result.push_back(controller);
  return result;
}

Result<void> check_limits(const ResourceLimits& limits, const std::string& system) {
  const std::string online_file = system + "/cpu/online";
  UMWELT_CHECK(check_subset(limits.cpuset_cpus, "--cpuset-cpus", online_file, "CPU"));
  UMWELT_CHECK(check_subset(limits.cpuset_mems, "--cpuset-mems", system + "/node/has_memory",
                            "memory node"));
  if (limits.bandwidth) {
    const auto [quota_us, period_us] = *limits.bandwidth;
    if (period_us < kLeastPeriodUs || period_us > kMostPeriodUs)
      return fail(0, fmt::format("--cpu-period {}: choose 1000 to 1000000 (us)", period_us));
    if (quota_us < kLeastQuotaUs)
      return fail(0,
                  fmt::format("a CPU quota of {} us in each {} us: the kernel's least is 1000 us",
                              quota_us, period_us));
    const auto online = read_file(online_file);
    const auto cpus = online ? CpuSet::parse(*online) : std::nullopt;
    if (cpus && limits.bandwidth->cpus() > cpus->count())
      return fail(0, fmt::format("{:g} CPUs are more than this host has; choose up to {}",
                                 limits.bandwidth->cpus(), cpus->count()));
  }
  if (limits.cpu_shares && (*limits.cpu_shares < 2 || *limits.cpu_shares > 262144))
    return fail(0, fmt::format("--cpu-shares {}: choose 2 to 262144", *limits.cpu_shares));
  constexpr std::uint64_t kMost = std::numeric_limits<std::int64_t>::max();
  if (limits.memory_bytes && *limits.memory_bytes < kLeastMemoryBytes)
    return fail(0, fmt::format("--memory {}: choose at least 4m", *limits.memory_bytes));
  if (limits.memory_bytes.value_or(0) > kMost || limits.memory_swap_bytes.value_or(0) > kMost)
    return fail(0, "--memory: more than the kernel can count");
  if (limits.memory_bytes && limits.memory_swap_bytes &&
      *limits.memory_swap_bytes < *limits.memory_bytes)
    return fail(0, "--memory-swap is memory and swap together: choose at least --memory");
  if (limits.pids_limit && *limits.pids_limit == 0)
    return fail(0, "--pids-limit 0: choose at least 1");
  return {};
}

}  // namespace umwelt::launch
