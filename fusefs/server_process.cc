// SPDX-License-Identifier: Apache-2.0
#include "fusefs/server_process.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "fusefs/process.h"

namespace umwelt::fusefs {
namespace {

using namespace std::chrono_literals;

constexpr auto kPingInterval = 500ms;
constexpr auto kAnswerPatience = 2000ms;  // to a ping
constexpr auto kDeathCheckInterval = 3ms;
constexpr auto kStateCheckInterval = 100ms;
constexpr auto kLongLife = 10s;

}  // namespace

ServerProcess::ServerProcess(pid_t process, UniqueFd descriptor, UniqueFd channel_end,
                             UniqueFd life_end)
    : pid(process),
      pidfd(std::move(descriptor)),
      life(std::move(life_end)),
      channel(std::move(channel_end)) {}

void ServerProcess::enter(State next) {
  state = next;
  since = Clock::now();
}

void ServerProcess::kill() {
  ::syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
  enter(State::kDying);
}

bool ServerProcess::lived_long() const { return ready && Clock::now() - ready_at > kLongLife; }

bool ServerProcess::is_dead(bool may_wait_for_page) {
  pollfd entries[] = {{pidfd.get(), POLLIN, 0}, {life.get(), POLLIN, 0}};
  ::poll(entries, 2, 0);
  if (entries[0].revents != 0) {
    siginfo_t info{};
    if (::waitid(P_PIDFD, static_cast<id_t>(pidfd.get()), &info, WEXITED | WNOHANG) == 0 &&
        info.si_pid != 0)
      wait_status = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
    return true;
  }
  if (entries[1].revents == 0) return false;
  hung_up = true;
  if (state != State::kDying) kill();  // it has no life thread: it can't go on
  if (!may_wait_for_page || !only_sleeps_uninterruptibly(pid)) {
    asleep_since_.reset();
    return false;
  }
  // Who is about to end sleeps like this, too, for a moment, and then tells the reason.
  const Clock::time_point now = Clock::now();
  if (!asleep_since_) asleep_since_ = now;
  if (now - *asleep_since_ < kDeathCheckInterval) return false;
  wait_status = -SIGKILL;
  return is_corpse = true;
}

void ServerProcess::check_heartbeat() {
  const Clock::time_point now = Clock::now();
  if (pinged && now - *pinged > kAnswerPatience) {
    spdlog::error("server {} does not answer: killing it", pid);
    kill();
  } else if (!pinged && now >= next_ping) {
    pinged = now;
    next_ping = now + kPingInterval;
    (void)channel.send(Verb::kPing, std::to_string(::getpid()));
  }
}

ServerProcess::Clock::time_point ServerProcess::next_look() const {
  const Clock::time_point now = Clock::now();
  Clock::time_point next = Clock::time_point::max();
  const auto at = [&](Clock::time_point time) { next = std::min(next, time); };
  if (hung_up || state == State::kDying) at(now + kDeathCheckInterval);
  if (state == State::kServing) at(pinged ? *pinged + kAnswerPatience : next_ping);
  if (state != State::kServing) at(now + kStateCheckInterval);
  return next;
}

}  // namespace umwelt::fusefs
