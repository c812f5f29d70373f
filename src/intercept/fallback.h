// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "intercept/notice.h"

namespace umwelt::intercept {

// Who waits for a container's process keeps a copy of its listener, so that calls are answered also
// while no daemon runs: the kernel is told to go on with them, with the host's numbers. When a
// daemon is there again it gets the listener. Not thread-safe; uses SIGALRM and the interval timer
// of the process for moments while no daemon runs.
class Fallback {
 public:
  struct Place {
    std::string runtime;  // the daemon's directory
    std::string id;       // of the container
  };
  enum class Daemon { kHasBoth, kIsAway };
  // `notice` as notice.h makes it. `daemon`: whether it has both already.
  static Result<Fallback> make(Place place, UniqueFd listener, UniqueFd notice,
                               Daemon daemon = Daemon::kHasBoth);

  // What to wait for with poll(2), POLLIN; then step() is called, also after the timeout.
  int fd() const;          // -1: nothing
  int timeout_ms() const;  // -1: no limit
  void step();
  // Does all of it until nobody is left who could call.
  void run();

  // The parts of step(), for one who has many of them.
  void serve();            // sees whether the daemon is there, else lets calls through
  void look_for_daemon();  // if it may lack the listener: gives it, and waits up to 1 s for that
  bool is_over() const { return state_ == State::kOver; }
  int listener() const { return listener_.get(); }

 private:
  // kUnsure: somebody goes on as the daemon, who has the listener if he got it from the former one.
  enum class State { kServed, kUnsure, kAway, kOver };

  Fallback(Place place, UniqueFd listener, Notice notice, UniqueFd notice_fd)
      : place_(std::move(place)),
        listener_(std::move(listener)),
        notice_(std::move(notice)),
        notice_fd_(std::move(notice_fd)) {}
  bool daemon_listens() const;
  void find_daemon();
  void let_through();

  Place place_;
  UniqueFd listener_;
  Notice notice_;
  UniqueFd notice_fd_;
  UniqueFd daemon_;  // pidfd
  State state_ = State::kServed;
  std::chrono::steady_clock::time_point looked_{};
};

}  // namespace umwelt::intercept
