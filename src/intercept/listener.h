// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/result.h"
#include "base/unique_fd.h"
#include "intercept/answers.h"
#include "intercept/notice.h"

namespace umwelt::intercept {

// One seccomp listener, served by a thread of its own: however often its processes call, they only
// wait for each other. The thread keeps what it needs alive, so a listener may be dropped while the
// thread is stuck in the kernel (in memory of the caller's that somebody never fills).
class Listener {
 public:
  // Who to ask for the answers to a caller.
  using Find = std::function<Result<std::shared_ptr<Answers>>(pid_t caller)>;

  Listener(std::string name, UniqueFd fd, Notice notice, Find find);

  static Result<void> start(const std::shared_ptr<Listener>& listener);
  // Asks the thread to end, once; it answers what it has received. To be repeated until ended(): a
  // thread that is about to wait does not notice.
  void ask_to_stop();
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  void join() { thread_.join(); }
  void abandon() { thread_.detach(); }

  const std::string& name() const { return name_; }
  int fd() const { return fd_.get(); }

 private:
  void serve();
  void answer();
  Reply reply_to(const seccomp_notif& notification);

  const std::string name_;
  const UniqueFd fd_;
  Notice notice_;
  const Find find_;
  std::atomic<bool> stopping_{false}, ended_{false};
  std::thread thread_;
};

// The signal that interrupts the threads; call it once before the first is started.
void prepare_signal();

}  // namespace umwelt::intercept
