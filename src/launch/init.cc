// SPDX-License-Identifier: Apache-2.0
#include "launch/init.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace umwelt::launch {
namespace {

[[noreturn]] void serve_as_init(pid_t command, const sigset_t& signals) {
  for (;;) {
    const int signal = ::sigwaitinfo(&signals, nullptr);
    if (signal < 0) continue;
    if (signal != SIGCHLD) {
      ::kill(command, signal);
      continue;
    }
    int status = 0;
    for (pid_t pid; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      if (pid != command) continue;
      ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    }
  }
}

}  // namespace

Result<void> split_off_init(bool tty) {
  sigset_t all;
  ::sigfillset(&all);
  if (::sigprocmask(SIG_SETMASK, &all, nullptr) != 0) return fail_errno("block signals");
  const pid_t command = ::fork();
  if (command < 0) return fail_errno("make the command's process");
  if (command == 0) {
    // SIGTTOU is blocked, so that a background process may do this.
    if (::setpgid(0, 0) != 0) return fail_errno("make a process group");
    if (tty && ::tcsetpgrp(STDIN_FILENO, ::getpid()) != 0)
      return fail_errno("take the terminal's foreground");
    return {};
  }
  // It never executes anything, which would close what is the launcher's.
  ::close_range(3, ~0U, 0);
  serve_as_init(command, all);
}

}  // namespace umwelt::launch
