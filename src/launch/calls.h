// SPDX-License-Identifier: Apache-2.0
// Who answers the syscalls of a process in a container.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "container/record.h"
#include "intercept/fallback.h"

namespace umwelt::launch {

// Gives the daemon the listener of a process of container `id`; what is returned answers while no
// daemon runs.
Result<intercept::Fallback> give_listener(const container::Directories& directories,
                                          const std::string& id, UniqueFd listener);

// For a process that stays when its caller goes: closes what it was started with besides 0, 1 and
// 2, such as a lock of a script, which is all that would outlive an exec(2).
Result<void> close_inherited();

// For a process that nobody waits for: a process of its own for the fallback, until nobody is left
// who could call.
Result<void> leave_behind(intercept::Fallback& fallback);

}  // namespace umwelt::launch
