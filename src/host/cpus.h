// SPDX-License-Identifier: Apache-2.0
// The machine's CPUs and memory nodes, from /proc/cpuinfo and sysfs.
#pragma once

#include <vector>

#include "base/result.h"
#include "host/facts.h"

namespace umwelt::host {

// `root` is the directory that has proc/ and sys/. Without sysfs the CPUs are those of cpuinfo. A
// CPU that comes or goes during the call makes it start over.
Result<Cpus> read_cpus(int root);

// Of each of `nodes`; without lines where it can't be read (a node that went away).
std::vector<NodeMeminfo> read_node_meminfo(int root, const CpuSet& nodes);

}  // namespace umwelt::host
