// SPDX-License-Identifier: Apache-2.0
#include "launch/namespaces.h"

#include <linux/sched.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include <csignal>
#include <string>

#include "base/file.h"
#include "container/record.h"

namespace umwelt::launch {
namespace {

constexpr std::int64_t kNsPerSecond = 1000000000;

// "boottime -12 345": seconds may be negative, nanoseconds may not.
std::string offset_line(const char* clock, const timespec& now) {
  const bool borrow = now.tv_nsec > 0;
  return std::string(clock) + " " +
         std::to_string(-static_cast<std::int64_t>(now.tv_sec) - (borrow ? 1 : 0)) + " " +
         std::to_string(borrow ? kNsPerSecond - now.tv_nsec : 0) + "\n";
}

}  // namespace

Result<StartTime> start_time_namespace() {
  if (::unshare(CLONE_NEWTIME) != 0) return fail_errno("make a time namespace");
  timespec boottime{}, monotonic{}, realtime{};
  ::clock_gettime(CLOCK_BOOTTIME, &boottime);
  ::clock_gettime(CLOCK_MONOTONIC, &monotonic);
  ::clock_gettime(CLOCK_REALTIME, &realtime);
  UMWELT_CHECK(
      write_file_at(AT_FDCWD, "/proc/self/timens_offsets",
                    offset_line("boottime", boottime) + offset_line("monotonic", monotonic)));
  StartTime start;
  start.boottime_ns = static_cast<std::uint64_t>(boottime.tv_sec * kNsPerSecond + boottime.tv_nsec);
  start.realtime_s = realtime.tv_sec;
  return start;
}

Result<std::optional<Child>> clone_child(std::uint64_t namespaces) {
  int pidfd = -1;
  clone_args args{};
  args.flags = namespaces | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<std::uintptr_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  const long pid = ::syscall(SYS_clone3, &args, sizeof(args));
  if (pid < 0) return fail_errno("make a process in new namespaces");
  if (pid == 0) return std::optional<Child>();
  return std::optional<Child>(Child{static_cast<pid_t>(pid), UniqueFd(pidfd)});
}

Result<UniqueFd> open_process(pid_t pid, std::uint64_t starttime) {
  if (pid <= 0) return fail(ESRCH, "no process");
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) return fail_errno("process " + std::to_string(pid));
  // In this order: what the descriptor holds can't be reused any more.
  if (!container::process_lives(pid, starttime))
    return fail(ESRCH, "process " + std::to_string(pid));
  return process;
}

Result<void> join_namespaces(int pidfd, int namespaces) {
  if (::setns(pidfd, namespaces) != 0) return fail_errno("enter the container's namespaces");
  return {};
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
  if (rc != 0) return fail_errno("wait for the container");
  return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

}  // namespace umwelt::launch
