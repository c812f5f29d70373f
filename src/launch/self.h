// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/result.h"

namespace umwelt::launch {

// Executes this program again, with the same arguments, from a read-only mount of its own file,
// unless it was executed from one. For a moment a process in a container can be a copy of the
// launcher: a command that is a symlink or a script of /proc/self/exe executes the launcher's file
// inside, and could otherwise replace the host's program through it (CVE-2019-5736). What is
// executed does not see its file's name any more, and has it for its own (argv[0]). Returns when
// this process is the one that was executed, and on failure.
Result<void> protect();

}  // namespace umwelt::launch
