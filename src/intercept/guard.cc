// SPDX-License-Identifier: Apache-2.0
#include "intercept/guard.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/file.h"

namespace umwelt::intercept {
namespace {

constexpr int kListener = 3, kNotice = 4;
constexpr int kFirstCopy = 10;  // above both, so that none is overwritten

// Leaves nothing of the caller's but what it needs.
bool become_guard(int listener, int notice) {
  const int first = ::fcntl(listener, F_DUPFD, kFirstCopy),
            second = ::fcntl(notice, F_DUPFD, kFirstCopy);
  if (first < 0 || second < 0 || ::dup2(first, kListener) < 0 || ::dup2(second, kNotice) < 0 ||
      ::syscall(SYS_close_range, kNotice + 1, ~0U, 0U) != 0)
    return false;
  if (const auto null = open_at(AT_FDCWD, "/dev/null", O_RDWR))
    for (const int fd : {0, 1, 2}) ::dup2(null->get(), fd);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::prctl(PR_SET_NAME, kGuardName);
  return ::setsid() >= 0 && ::chdir("/") == 0;
}

[[noreturn]] void run_guard(const Fallback::Place& place, int listener, int notice) {
  if (!become_guard(listener, notice)) ::_exit(1);
  auto fallback = Fallback::make(place, UniqueFd(kListener), UniqueFd(kNotice));
  if (fallback) fallback->run();
  ::_exit(fallback ? 0 : 1);
}

}  // namespace

Result<void> start_guard(const Fallback::Place& place, int listener, int notice) {
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("start a process for the fallback");
  if (child == 0) {
    // Its end is waited for by nobody of ours.
    const pid_t guard = ::fork();
    if (guard == 0) run_guard(place, listener, notice);
    ::_exit(guard < 0 ? 1 : 0);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return fail(EAGAIN, "start a process for the fallback");
  return {};
}

}  // namespace umwelt::intercept
