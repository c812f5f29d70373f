// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::container {

// The kernel's own uevents (netlink(7), NETLINK_KOBJECT_UEVENT), without blocking.
Result<UniqueFd> open_uevents();

// Reads all that there are: whether a CPU came or went, or an event was lost.
bool told_of_cpus(int uevents);

}  // namespace umwelt::container
