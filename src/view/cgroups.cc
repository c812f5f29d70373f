// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <iterator>

#include "view/files.h"

namespace umwelt::view {

// The layout of proc_cgroupstats_show() in kernel/cgroup/cgroup-v1.c. The JVM finds out from the
// hierarchy numbers which cgroup version it is in. A container has its own cgroup.
std::string render_cgroups(const Resources& r) {
  std::string text;
  if (!r.host.controllers) return text;
  text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n";
  for (const host::Controller& controller : *r.host.controllers)
    fmt::format_to(std::back_inserter(text), "{}\t{}\t{}\t{}\n", controller.name,
                   controller.hierarchy, r.identity.limited ? 1 : controller.cgroups,
                   controller.enabled ? 1 : 0);
  return text;
}

}  // namespace umwelt::view
