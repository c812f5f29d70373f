// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>

#include <algorithm>
#include <chrono>
#include <csignal>

#include "launch/cgroup.h"
#include "launch/launch.h"
#include "launch/namespaces.h"
#include "launch/store.h"

namespace umwelt::launch {
namespace {

using Clock = std::chrono::steady_clock;

Result<void> send(int pidfd, int signal) {
  if (::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) != 0)
    return fail_errno("send a signal");
  return {};
}

// Whether the process has ended by `deadline`; nullopt: no deadline.
Result<bool> ended(int pidfd, std::optional<Clock::time_point> deadline) {
  for (;;) {
    int timeout_ms = -1;
    if (deadline) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(*deadline - Clock::now()).count();
      timeout_ms = static_cast<int>(std::clamp<std::int64_t>(left + 1, 0, 1 << 30));
    }
    pollfd state{pidfd, POLLIN, 0};
    const int n = ::poll(&state, 1, timeout_ms);
    if (n < 0 && errno != EINTR) return fail_errno("wait for a process");
    if (n > 0) return true;
    if (n == 0) return false;
  }
}

bool is_tidied(const Store& store, const std::string& id) {
  const auto now = store.find(id);
  return !now || now->status == Status::kStopped;
}

// For what it has to do; it may have output left that nobody takes. One that was suspended, as a
// job of a shell is, is woken; a job in the background that has a terminal falls asleep again.
Result<void> wait_monitor(const Launched& launched, int monitor, const Store& store) {
  constexpr std::chrono::milliseconds kStep{100};
  constexpr int kStepsToWake = 10, kStepsToGiveUp = 20;
  for (int stopped = 0; !UMWELT_TRY(ended(monitor, Clock::now() + kStep));) {
    if (is_tidied(store, launched.spec.id)) return {};
    const auto process = container::read_process_stat(launched.monitor_pid);
    if (!process || process->state != 'T') continue;
    if (++stopped == kStepsToWake) (void)send(monitor, SIGCONT);
    if (stopped == kStepsToGiveUp)
      return fail(0,
                  fmt::format("the container has ended; process {}, which tidies up after it, is "
                              "stopped: continue it (fg, kill -CONT {}) or kill it",
                              launched.monitor_pid, launched.monitor_pid));
  }
  return {};
}

// A container's monitor tidies up and goes; without one that is for us to do.
Result<void> wait_tidied(const Launched& launched, const container::Directories& directories) {
  Store store(directories);
  if (const auto monitor = open_process(launched.monitor_pid, launched.monitor_starttime))
    UMWELT_CHECK(wait_monitor(launched, monitor->get(), store));
  auto reaped = store.reap();
  if (reaped) return reaped;
  if (is_tidied(store, launched.spec.id)) return {};  // it was about another
  return reaped;
}

}  // namespace

Result<void> stop(const Launched& launched, const container::Directories& directories, int signal,
                  unsigned grace_s) {
  if (const auto init = open_process(launched.init_pid, launched.init_starttime)) {
    auto sent = send(init->get(), signal);
    thaw(launched.spec.id);
    if (sent && !UMWELT_TRY(ended(init->get(), Clock::now() + std::chrono::seconds(grace_s))))
      sent = send(init->get(), SIGKILL);
    if (!sent && sent.error().code != ESRCH) return sent;
    UMWELT_TRY(ended(init->get(), std::nullopt));
  }
  return wait_tidied(launched, directories);
}

}  // namespace umwelt::launch
