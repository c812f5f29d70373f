// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/result.h"

namespace umwelt::intercept {

// Whether what this process starts may have a seccomp listener, and why not. The kernel allows one
// in a chain of filters, and this process may be below one that has it: in a container whose system
// calls somebody answers, also where that is a whole machine (WSL with mirrored networking, LXD).
// One system call where there is no filter, else a fork: nothing but an attempt tells. For programs
// with one thread.
Result<void> check_room_for_listener();

}  // namespace umwelt::intercept
