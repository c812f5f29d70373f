// SPDX-License-Identifier: Apache-2.0
// The container's cgroup, made, limited and removed through libcgroup: "umwelt/ID" below the root
// of every hierarchy, on v1, hybrid and v2. Not thread-safe, as libcgroup is not.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cgroup/reader.h"
#include "launch/spec.h"

namespace umwelt::launch {

// Where it is or would be in each hierarchy.
Result<cgroup::Paths> cgroup_paths(const std::string& id);
// EEXIST when there is such a cgroup. After another error nothing is left of it.
Result<void> create_cgroup(const std::string& id, const ResourceLimits& limits);
// Changes what is set in `limits`, leaves the rest. In an order that never passes through a state
// the kernel refuses (memory and memory.memsw).
Result<void> apply_limits(const std::string& id, const ResourceLimits& limits);
Result<void> attach(const std::string& id, pid_t pid);
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
