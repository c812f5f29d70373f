// SPDX-License-Identifier: Apache-2.0
// Files below the daemon's runtime directory.
#pragma once

#include <string>

namespace umwelt::intercept {

// Where seccomp listeners are taken, an OCI listenerPath.
inline std::string socket_path(const std::string& runtime) { return runtime + "/seccomp.sock"; }
// Has the daemon's pid, and is locked as long as a daemon runs.
inline std::string lock_path(const std::string& runtime) { return runtime + "/umweltd.lock"; }

}  // namespace umwelt::intercept
