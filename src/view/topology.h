// SPDX-License-Identifier: Apache-2.0
// How the shown CPUs are arranged: what cpuinfo and cpuN/topology say must agree.
#pragma once

#include <vector>

#include "view/resources.h"

namespace umwelt::view {

struct ShownTopology {
  unsigned siblings = 1;  // shown CPUs of the same package
  unsigned cores = 1;     // distinct cores among them
  // Numbers of a machine that has the shown CPUs alone, each counted from 0 in the order of the
  // shown ids: packages in the machine, dies and cores in their package. Used under dense ids.
  unsigned package = 0, die = 0, core = 0;
};

// One per Cpus::shown, same order. A CPU whose topology the kernel does not tell is a package of
// its own.
std::vector<ShownTopology> shown_topology(const Resources& r);

}  // namespace umwelt::view
