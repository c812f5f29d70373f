// SPDX-License-Identifier: Apache-2.0
// Cgroup namespaces that a container makes itself.
#pragma once

#include "base/result.h"

namespace umwelt::launch {

// From here on this process and those that come of it make none. In one that belongs to a user
// namespace of its own root of the container could mount its cgroups anew, to be written to, and
// take its limits away; of a hierarchy that has no cgroup of it, the launcher's cgroup. unshare(2)
// and clone(2) fail with EPERM; clone3(2), whose flags a filter can't see, with ENOSYS, for which C
// libraries are prepared. Needs no_new_privs.
Result<void> forbid_cgroup_namespaces();

}  // namespace umwelt::launch
