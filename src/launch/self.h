// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/result.h"

namespace umwelt::launch {

// Whether this process was executed from a file that can't be written to through /proc/PID/exe.
bool is_protected();

// Executes this program again, with the same arguments, from a read-only mount of its own file. For
// a moment a process in a container can be a copy of the launcher: a command that is a symlink or a
// script of /proc/self/exe executes the launcher's file inside, with libraries of the container's
// choice, and could otherwise replace the host's program through it (CVE-2019-5736). Returns only
// on failure.
Error execute_protected();

}  // namespace umwelt::launch
