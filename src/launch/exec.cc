// SPDX-License-Identifier: Apache-2.0
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/child_process.h"
#include "container/record.h"
#include "launch/calls.h"
#include "launch/cgroup.h"
#include "launch/child.h"
#include "launch/launch.h"
#include "launch/namespaces.h"
#include "launch/self.h"
#include "launch/supervise.h"

namespace umwelt::launch {
namespace {

constexpr int kPatienceMs = 1000;

// Ends the child if the launcher can't go on with it, and waits for that: it would be a zombie in
// the container until the host's init takes it. A frozen one ends later.
class Guard {
 public:
  explicit Guard(const ChildProcess& child) : child_(&child) {}
  ~Guard() {
    if (child_ == nullptr) return;
    ::syscall(SYS_pidfd_send_signal, child_->pidfd.get(), SIGKILL, nullptr, 0);
    pollfd end{child_->pidfd.get(), POLLIN, 0};
    if (::poll(&end, 1, kPatienceMs) > 0) ::waitpid(child_->pid, nullptr, WNOHANG);
  }
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
  void release() { child_ = nullptr; }

 private:
  const ChildProcess* child_;
};

}  // namespace

Result<Outcome> exec(const Launched& launched, const container::Directories& directories,
                     const ExecRequest& asked) {
  if (::geteuid() != 0) return fail(0, "exec: only root can enter a container, use sudo");
  UMWELT_CHECK(check_protection());
  auto init = open_process(launched.init_pid, launched.init_starttime);
  if (launched.status != Status::kRunning || !init)
    return fail(ESRCH, "container " + launched.spec.id + " does not run");
  ExecRequest request = asked;
  request.intercept = launched.spec.policy.affinity_virtualised;
  const UniqueFd signals = UMWELT_TRY(block_signals());
  auto [channel, child_channel] = UMWELT_TRY(Channel::make());
  const CgroupDirectories cgroups = UMWELT_TRY(cgroup_directories(launched.spec.id));
  const UniqueFd birthplace = UMWELT_TRY(open_v2_cgroup(cgroups));
  // For the child: a process does not change its own pid namespace.
  UMWELT_CHECK(join_namespaces(init->get(), CLONE_NEWPID | CLONE_NEWTIME));
  auto cloned = clone_child(0, birthplace.get());
  // Beyond the limit on processes none is born, but each can come: a container that is full is one
  // to look into.
  const bool full = birthplace && !cloned && cloned.error().code == EAGAIN;
  if (full) cloned = clone_child(0);
  auto child = UMWELT_TRY(std::move(cloned));
  if (!child) {
    channel.close();
    run_in_container(request, launched.spec.hostname, init->get(), cgroups, !full,
                     std::move(child_channel));
  }
  child_channel.close();
  Guard guard(*child);
  Supervised supervised;
  supervised.pid = child->pid;
  supervised.pidfd = child->pidfd.get();
  std::optional<intercept::Fallback> fallback;
  for (;;) {
    auto message = UMWELT_TRY(channel.receive());
    if (message.error && message.error->stage == Stage::kLauncher)
      return fail(std::move(message.error->error));
    if (message.error) return not_executed(message.error->error);
    if (message.closed) break;
    if (message.terminal) supervised.master = std::move(message.terminal);
    if (message.listener)
      fallback =
          UMWELT_TRY(give_listener(directories, launched.spec.id, std::move(message.listener)));
  }
  guard.release();
  Outcome outcome;
  if (request.detach) {
    if (fallback) UMWELT_CHECK(leave_behind(*fallback));
    return outcome;
  }
  if (fallback) supervised.fallback = &*fallback;
  supervised.relay_stdin = request.tty && request.interactive;
  outcome.exit_code = UMWELT_TRY(supervise(std::move(supervised), signals.get()));
  return outcome;
}

}  // namespace umwelt::launch
