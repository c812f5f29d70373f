// SPDX-License-Identifier: Apache-2.0
// The wait for a process in a container: signals that the launcher gets are passed on, the
// terminal and the output are relayed.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "intercept/fallback.h"
#include "launch/log_file.h"

namespace umwelt::launch {

// Blocks the signals that supervise() passes on and gives them as a signalfd(2). SIGTSTP is blocked
// only: a launcher that stands still does not reap. Call it before
// the child is born, so that none is lost.
Result<UniqueFd> block_signals();

struct Supervised {
  int pidfd = -1;
  pid_t pid = 0;
  std::string container;                    // its id, if this is its init
  UniqueFd master;                          // of its terminal
  UniqueFd out, err;                        // ends of pipes, when the output goes to a log
  intercept::Fallback* fallback = nullptr;  // nullptr: its syscalls are the kernel's
  LogFile* log = nullptr;                   // nullptr: the terminal is relayed to stdout
  bool relay_stdin = false;                 // to the terminal
  // Called with the exit code when the process has ended and is reaped, be there output that nobody
  // takes: a container ends only when all its processes are reaped.
  std::function<void(int)> ended;
};

// Waits until it has ended and gives its exit code, 128 + signal when killed. A signal to the
// launcher that would end a process, for which this one has no handler and which the kernel
// therefore drops (as for every init of a pid namespace), kills it: the exit code then is
// 128 + that signal, as if it were no init.
Result<int> supervise(Supervised supervised, int signals);

// Whether a thread's /proc/PID/task/TID/{status,syscall} (their text) say that `signal` reaches
// somebody: it is caught, ignored or blocked, or the thread waits for signals, for which time the
// kernel shows them as not blocked.
bool handles_signal(std::string_view status, std::string_view syscall, int signal);

}  // namespace umwelt::launch
