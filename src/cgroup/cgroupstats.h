// SPDX-License-Identifier: Apache-2.0
// The states of a v1 cgroup's tasks, counted by the kernel: the CGROUPSTATS command of the
// "TASKSTATS" generic netlink family (kernel/taskstats.c,
// Documentation/accounting/cgroupstats.rst).
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::cgroup {

// Tasks of one cgroup without its descendants. A state that the kernel does not count here
// (freezable sleeps since 6.1, TASK_IDLE) is in none of them, so they don't add up to the total.
struct TaskStates {
  std::uint64_t running = 0, sleeping = 0, uninterruptible = 0, stopped = 0, io_wait = 0;
};

// One netlink message as the answer to request `sequence`. EAGAIN: the answer to an earlier one;
// EBADMSG: not an answer at all; else the errno that the kernel answered.
Result<TaskStates> parse_cgroupstats(std::string_view message, std::uint32_t sequence);

// A netlink socket to ask on; 2 syscalls a question. Not thread-safe.
class Cgroupstats {
 public:
  // EPROTONOSUPPORT, ENOENT: the kernel has no such socket or family (or this is not the initial
  // network namespace).
  static Result<Cgroupstats> open();

  // `directory` is of a v1 cgroup: EINVAL otherwise. ENODEV when the cgroup has been removed.
  Result<TaskStates> read(int directory);

 private:
  Cgroupstats() = default;
  UniqueFd socket_;
  std::uint16_t family_ = 0;
  std::uint32_t sequence_ = 0;
};

}  // namespace umwelt::cgroup
