// SPDX-License-Identifier: Apache-2.0
// The last steps of a process before it is the command: what it may do, who it is, what it
// executes. Everything here runs in the container.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "launch/channel.h"
#include "launch/spec.h"
#include "launch/user.h"

namespace umwelt::launch {

// The environment of a command: docker's defaults (PATH, HOSTNAME, HOME, TERM with a terminal),
// each of which `given` ("KEY=value", the last of a key counts) overrides. Pure.
std::vector<std::string> make_environment(const std::vector<std::string>& given,
                                          const std::string& hostname, const std::string& home,
                                          bool tty);

// Changes to `workdir` (made if it is missing), which is never resolved out of the root.
Result<void> enter_workdir(const std::string& workdir);

// Becomes `user` with docker's default capabilities (a user other than root has none of them in
// effect) and no_new_privs.
Result<void> drop_privileges(const User& user);

// Default signal dispositions, an empty mask, umask 022, a session keyring of its own, and every
// descriptor but stdio closed at exec.
void reset_process();

// execve(2) with a search of the environment's PATH. Returns why it could not: ENOENT when there
// is no such command.
Error execute(const std::vector<std::string>& command, const std::vector<std::string>& environment);

}  // namespace umwelt::launch
