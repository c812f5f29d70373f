// SPDX-License-Identifier: Apache-2.0
// How a process comes to the cgroups of a container: it is born in the one of cgroup2
// (clone_child), and moves itself to those of v1. To be moved by another one, as by a write to
// cgroup.procs, takes an RCU grace period: 10 ms and more on a machine that has nothing else to do
// (cgroup_procs_write_start() in kernel/cgroup/cgroup.c).
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::launch {

// On the host.
struct CgroupDirectories {
  std::vector<std::string> v1;
  std::string v2;  // "": this host has none
};

// That of cgroup2; empty where there is none.
Result<UniqueFd> open_v2_cgroup(const CgroupDirectories& directories);
// Moves this process, which has one thread, to those of v1.
Result<void> enter_v1_cgroups(const CgroupDirectories& directories);
// To that of cgroup2, for one that could not be born there. This takes the grace period, too.
Result<void> enter_v2_cgroup(const CgroupDirectories& directories);

}  // namespace umwelt::launch
