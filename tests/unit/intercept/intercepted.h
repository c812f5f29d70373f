// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "base/unique_fd.h"
#include "intercept/filter.h"

namespace umwelt::intercept {

// A child whose syscalls are intercepted; `body` is what it does then, its result is the exit code.
class Intercepted {
 public:
  explicit Intercepted(const std::function<int()>& body) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    const UniqueFd ours(ends[0]);
    UniqueFd theirs(ends[1]);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
      const auto listener = install_filter();
      const int number = listener ? listener->get() : -listener.error().code;
      (void)!::write(theirs.get(), &number, sizeof number);
      char go = 0;
      (void)!::read(theirs.get(), &go, 1);
      ::_exit(listener ? body() : 99);
    }
    int number = -1;
    EXPECT_EQ(::read(ours.get(), &number, sizeof number), static_cast<ssize_t>(sizeof number));
    error_ = number < 0 ? -number : 0;
    const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    if (number >= 0)
      listener_.reset(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), number, 0)));
    (void)!::write(ours.get(), "g", 1);
  }
  ~Intercepted() { kill(); }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  int exit_code() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  int listener() const { return listener_.get(); }
  int error() const { return error_; }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  int error_ = 0;
  UniqueFd listener_;
};

}  // namespace umwelt::intercept
