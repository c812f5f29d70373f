// SPDX-License-Identifier: Apache-2.0
// In the daemon's place while none runs: a process that takes the listeners which OCI runtimes hand
// over, and lets the calls through. A runtime writes the socket's path down when a container is
// made and connects to it at every exec, which fails if nobody is there.
#pragma once

#include <string>

#include "base/result.h"

namespace umwelt::intercept {

// Starts the process unless somebody listens already. When this returns connections are taken. It
// ends when none came for ten seconds, and holds no descriptor of the caller's. What it was given
// goes to the next daemon. For programs with one thread. EBUSY: a daemon is about to start.
Result<void> start_stand_in(const std::string& runtime);

}  // namespace umwelt::intercept
