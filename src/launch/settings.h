// SPDX-License-Identifier: Apache-2.0
// Limits in the words of the control files. Pure but for check_limits().
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cgroup/reader.h"
#include "launch/spec.h"

namespace umwelt::launch {

struct Setting {  // one write to one control file
  std::string controller, file, value;
  std::string option;  // that asked for it: "--memory"
  friend bool operator==(const Setting&, const Setting&) = default;
};

// What an update has to know of the cgroup as it is: bytes, nullopt where there is no limit.
struct MemoryLimits {
  std::optional<std::uint64_t> memory_bytes;
  std::optional<std::uint64_t> memory_swap_bytes;  // v1 memory.memsw
  bool swap_accounting = true;
};

// docker's 2 to 262144 on cgroup v2's scale of 1 to 10000.
std::uint64_t weight_of_shares(std::uint64_t shares);

// The writes for `limits` in an order that the kernel takes: v1 demands memory <= memory.memsw at
// every moment. Without --memory-swap a container may use as much swap as memory (as docker has
// it), and an update of --memory alone keeps the amount of swap.
std::vector<Setting> settings_v1(const ResourceLimits& limits, const MemoryLimits& current);
std::vector<Setting> settings_v2(const ResourceLimits& limits, const MemoryLimits& current);

// The same where controllers of both versions are in use: `v1` has those on v1 (the keys).
std::vector<Setting> settings_of(const ResourceLimits& limits, const MemoryLimits& current,
                                 const std::map<std::string, std::string>& v1);

// Those of cgroup2's root that are enabled for containers. Beside v1 hierarchies (not `v2_alone`)
// cgroup2 is left without controllers, as a hybrid host's service manager has it, unless a limit
// needs one that is not on v1: the kernel may have memory or cpuset for v2 alone (CONFIG_MEMCG_V1,
// cgroup_no_v1=), and a host of v2 a hierarchy of net_cls, which v2 lacks.
std::vector<std::string> choose_v2_controllers(std::string_view cgroup_controllers, bool v2_alone);

// Enables `controllers` for the children of the v2 cgroup `directory`. Those that are enabled then:
// the kernel refuses cpu where there are real-time tasks (CONFIG_RT_GROUP_SCHED), and the root of a
// cgroup namespace with processes in it gets none.
std::vector<std::string> enable_controllers(const std::string& directory,
                                            const std::vector<std::string>& controllers);

// An Error whose text is a whole sentence (code 0) that names the option, when a limit can't be met
// on this host: CPUs that it lacks, memory below 4 MiB, ...
Result<void> check_limits(const ResourceLimits& limits,
                          const std::string& system = "/sys/devices/system");

}  // namespace umwelt::launch
