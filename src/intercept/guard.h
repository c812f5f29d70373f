// SPDX-License-Identifier: Apache-2.0
// The fallback of a listener that a runtime handed over, which keeps no copy of it itself: a small
// process of the daemon's own program that outlives it.
#pragma once

#include <optional>

#include "base/result.h"
#include "intercept/fallback.h"

namespace umwelt::intercept {

// Starts the process; it ends when nobody is left who could call.
Result<void> start_guard(const Fallback::Place& place, int listener, int notice);

// What main() does first: nullopt when this process is none, else the exit code.
std::optional<int> run_guard(int argc, char** argv);

}  // namespace umwelt::intercept
