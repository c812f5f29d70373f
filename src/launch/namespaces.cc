// SPDX-License-Identifier: Apache-2.0
#include "launch/namespaces.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#include <cstring>
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

timespec read_clock(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return now;
}

StartTime start_at(const timespec& boottime) {
  StartTime start;
  start.boottime_ns = static_cast<std::uint64_t>(boottime.tv_sec * kNsPerSecond + boottime.tv_nsec);
  start.realtime_s = read_clock(CLOCK_REALTIME).tv_sec;
  return start;
}

}  // namespace

StartTime start_now() { return start_at(read_clock(CLOCK_BOOTTIME)); }

Result<StartTime> start_time_namespace() {
  if (::unshare(CLONE_NEWTIME) != 0) return fail_errno("make a time namespace");
  const timespec boottime = read_clock(CLOCK_BOOTTIME);
  UMWELT_CHECK(write_file_at(
      AT_FDCWD, "/proc/self/timens_offsets",
      offset_line("boottime", boottime) + offset_line("monotonic", read_clock(CLOCK_MONOTONIC))));
  return start_at(boottime);
}

Result<UniqueFd> open_process(pid_t pid, std::uint64_t starttime) {
  if (pid <= 0) return fail(ESRCH, "no process");
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) return fail_errno("process " + std::to_string(pid));
  // In this order: what the descriptor holds can't be reused any more.
  if (!UMWELT_TRY(container::is_process(pid, starttime)))
    return fail(ESRCH, "process " + std::to_string(pid));
  return process;
}

Result<void> join_namespaces(int pidfd, int namespaces) {
  if (::setns(pidfd, namespaces) != 0) return fail_errno("enter the container's namespaces");
  return {};
}

Result<void> raise_loopback() {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno("socket");
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP;  // it keeps the kernel's own, IFF_LOOPBACK
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return fail_errno("bring lo up");
  return {};
}

}  // namespace umwelt::launch
