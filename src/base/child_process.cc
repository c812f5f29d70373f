// SPDX-License-Identifier: Apache-2.0
#include "base/child_process.h"

#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace umwelt {

Result<std::optional<ChildProcess>> clone_child(std::uint64_t namespaces) {
  int pidfd = -1;
  clone_args args{};
  args.flags = namespaces | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<std::uintptr_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  const long pid = ::syscall(SYS_clone3, &args, sizeof(args));
  if (pid < 0) return fail_errno("make a process in new namespaces");
  if (pid == 0) return std::optional<ChildProcess>();
  return std::optional<ChildProcess>(ChildProcess{static_cast<pid_t>(pid), UniqueFd(pidfd)});
}

Result<void> die_with_parent(bool yes) {
  if (::prctl(PR_SET_PDEATHSIG, yes ? SIGKILL : 0) != 0) return fail_errno("prctl");
  return {};
}

Result<int> wait_exit_code(int pidfd) {
  siginfo_t info{};
  int rc;
  do {
    rc = ::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED);
  } while (rc != 0 && errno == EINTR);
  if (rc != 0) return fail_errno("wait for a process");
  return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

}  // namespace umwelt
