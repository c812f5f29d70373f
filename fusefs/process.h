// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::fusefs {

// Of a pidfd; 0 when it is unknown or gone.
pid_t pid_of(int pidfd);

// Whether every thread of the process is dead or in an uninterruptible sleep.
bool only_sleeps_uninterruptibly(pid_t pid);

// For exec: `program` with the arguments that this one was given, in the foreground.
std::vector<std::string> arguments_for(const std::string& program,
                                       const std::vector<std::string>& arguments);

// From now on nobody's terminal is used: the log goes to a file.
Result<void> leave_terminal(const std::string& log_path);

// Keeps `end`, the writing end of a pipe, open for as long as this process runs, in a thread that
// has no other descriptor: whoever reads the pipe sees its end as soon as the process is killed,
// also if threads of it can't end yet. Called before other threads are started.
Result<void> hold_until_death(UniqueFd end);

}  // namespace umwelt::fusefs
