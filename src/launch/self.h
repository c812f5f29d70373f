// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/result.h"

namespace umwelt::launch {

// Whether this program is executed from a read-only mount, which `umwelt run` and `umwelt exec` see
// to before anything else, by executing their own file again. For a moment a process in a container
// can be a copy of the launcher: a command that is a symlink or a script of /proc/self/exe executes
// the launcher's file inside, and could otherwise replace the host's program through it
// (CVE-2019-5736). What is executed so does not see its file's name any more, and has it for its
// own (argv[0]). The error is the one that it failed with.
Result<void> check_protection();

}  // namespace umwelt::launch
