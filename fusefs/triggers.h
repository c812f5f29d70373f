// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::fusefs {

// Triggers of pressure files (Documentation/accounting/psi.rst): each is one on the pressure file
// of the container's own cgroup, held by the daemon for an opened file of the mount.
//
// The kernel takes some 10 ms to end a trigger, so a thread of their own makes and ends them, one
// after the other and for one container after the other: who makes many waits for himself. The
// numbers are bounded. Thread-safe; no call blocks.
class Triggers {
 public:
  // In all, of a container, and of a user in it who is not root.
  static constexpr std::size_t kMax = 1024, kMaxOfContainer = 64, kMaxOfUser = 16;

  // Who wants what. `open` gives the pressure file, opened for reading and writing.
  struct Wanted {
    std::shared_ptr<const void> container;
    uid_t user = 0;
    std::string text;  // "some 150000 1000000"
    std::function<Result<UniqueFd>()> open;
  };
  using Done = std::function<void(Result<void>)>;
  using Wake = std::function<void()>;

  static Result<std::unique_ptr<Triggers>> start();
  ~Triggers();

  // Makes the trigger of an opened file and calls `done`, from any thread. EBUSY when it has one,
  // ENOSPC when there are too many, else what the kernel says.
  void arm(std::uint64_t handle, Wanted wanted, Done done);

  // The events of poll(2) that hold now, POLLPRI and POLLERR, as psi_trigger_poll() in the kernel
  // tells them: that it fired is told once; POLLERR without a trigger (also of a daemon before this
  // one), and when the cgroup is gone. `wake` (may be empty) is called when it may be another
  // answer, once, by the thread; it replaces the one before.
  short poll(std::uint64_t handle, Wake wake);

  // The file was closed. It may have no trigger.
  void release(std::uint64_t handle);

  // Ends all and wakes who polls. What comes after it fails with ESHUTDOWN.
  void stop();

  std::size_t size() const;  // that are armed or not quite ended

 private:
  struct Trigger {
    UniqueFd fd;
    std::shared_ptr<const void> container;
    uid_t user = 0;
    bool fired = false, broken = false;
    Wake wake;
  };
  struct Job {
    std::uint64_t handle = 0;
    Wanted wanted;  // to be made
    Done done;
    UniqueFd end;  // or to be ended
  };

  Triggers() = default;
  void queue(const std::shared_ptr<const void>& container, Job job);
  void loop();
  bool work_once();
  Result<void> make(std::uint64_t handle, const Wanted& wanted);
  Result<void> check_numbers(std::uint64_t handle, const Wanted& wanted) const;
  void handle_event(std::uint64_t handle, std::uint32_t events);
  void wake_up();

  UniqueFd epoll_, wake_;
  std::thread thread_;

  mutable std::mutex mutex_;  // guards the rest
  bool stopping_ = false;
  std::map<std::uint64_t, Trigger> triggers_;    // by handle
  std::map<const void*, std::deque<Job>> jobs_;  // by container
  const void* served_ = nullptr;                 // whose turn was last
  std::size_t ending_ = 0;                       // triggers that are in jobs_
};

// Whether a process may have triggers of any window; others only such that the kernel looks at
// every 2 s (psi_trigger_create() in kernel/sched/psi.c): CAP_SYS_RESOURCE, in our user namespace.
bool may_use_any_window(pid_t pid);

// Whether the window of a trigger is a multiple of 2 s. EINVAL when the text is none.
Result<bool> has_slow_window(std::string_view trigger);

}  // namespace umwelt::fusefs
