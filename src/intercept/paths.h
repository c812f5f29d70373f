// SPDX-License-Identifier: Apache-2.0
// Files below the daemon's runtime directory.
#pragma once

#include <string>

namespace umwelt::intercept {

// Where seccomp listeners are taken, an OCI listenerPath.
inline std::string socket_path(const std::string& runtime) { return runtime + "/seccomp.sock"; }

}  // namespace umwelt::intercept
