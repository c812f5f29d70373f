// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "fusefs/keeper_channel.h"

namespace umwelt::fusefs {

// A server as its keeper sees it: the process, the channel to it, and how far it is.
struct ServerProcess {
  using Clock = std::chrono::steady_clock;
  enum class State { kPreparing, kPrepared, kStarting, kServing, kRetiring, kDying };

  // `life`: the reading end of the pipe that the process holds until it is killed (process.h).
  ServerProcess(pid_t process, UniqueFd descriptor, UniqueFd channel_end, UniqueFd life_end);

  void enter(State next);
  void kill();
  bool lived_long() const;  // a crash is not one of a series then

  // Sets the status when it is. Its end may be held up, if it `may_wait_for_page`: a thread that
  // waits for a page of a file that is served only goes on when the next server has sent that.
  // Threads that sleep like this do nothing more after they were killed, so it counts as dead when
  // all that is left of it does, and is a corpse that is still to be waited for.
  bool is_dead(bool may_wait_for_page);

  // Pings it, and kills one that does not answer.
  void check_heartbeat();

  // When something may have to be done of which no descriptor tells.
  Clock::time_point next_look() const;

  pid_t pid;
  UniqueFd pidfd, life;
  KeeperChannel channel;
  std::string program;  // another one than the keeper's
  State state = State::kPreparing;
  Clock::time_point since = Clock::now(), ready_at, next_ping;
  std::optional<Clock::time_point> pinged;  // not answered yet
  bool ready = false, hung_up = false, ending = false, is_corpse = false;
  int wait_status = 0;  // as of waitid(2): si_status, negative for a signal

 private:
  std::optional<Clock::time_point> asleep_since_;
};

}  // namespace umwelt::fusefs
