// SPDX-License-Identifier: Apache-2.0
// The fallback of a listener that a runtime handed over, which keeps no copy of it itself: a small
// process that outlives the daemon.
#pragma once

#include "base/result.h"
#include "intercept/fallback.h"

namespace umwelt::intercept {

inline constexpr char kGuardName[] = "umweltd-guard";  // of the process

// Starts the process, a fork of the caller with copies of the two descriptors and no other; it ends
// when nobody is left who could call. For programs with one thread.
Result<void> start_guard(const Fallback::Place& place, int listener, int notice);

}  // namespace umwelt::intercept
