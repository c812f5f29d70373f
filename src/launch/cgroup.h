// SPDX-License-Identifier: Apache-2.0
// The container's cgroup, "umwelt/ID" below the root of every hierarchy, on v1, hybrid and v2: made
// on v1, and limited on all, through libcgroup. Not thread-safe, as that is not.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "cgroup/reader.h"
#include "launch/cgroup_entry.h"
#include "launch/spec.h"

namespace umwelt::launch {

// Where it is or would be in each hierarchy.
Result<cgroup::Paths> cgroup_paths(const std::string& id);

Result<CgroupDirectories> cgroup_directories(const std::string& id);

// Makes that of cgroup2, where there is one, and opens it: empty where there is none. EEXIST when
// there is such a cgroup in any hierarchy.
Result<UniqueFd> create_v2_cgroup(const std::string& id);
// Makes the others, and limits all. After an error nothing is left, but for that of cgroup2 if
// there is a process in it.
Result<void> create_v1_cgroups(const std::string& id, const ResourceLimits& limits);
// Changes what is set in `limits`, leaves the rest. In an order that never passes through a state
// the kernel refuses (memory and memory.memsw).
Result<void> apply_limits(const std::string& id, const ResourceLimits& limits);
// Lets its processes go on that the daemon stopped for want of space on the host: a stopped one
// handles no signal, and on v1 not even SIGKILL ends it.
void thaw(const std::string& id);
// Kills everything in it (repeatedly, until it is empty) and removes it; absent is no error.
// EBUSY when a process does not die within some seconds.
Result<void> destroy_cgroup(const std::string& id);
Result<std::vector<pid_t>> processes(const std::string& id);
// Whether the kernel has killed a process of it for lack of memory.
Result<bool> oom_killed(const std::string& id);
std::string cgroup_name(const std::string& id);  // "umwelt/ID"

}  // namespace umwelt::launch
