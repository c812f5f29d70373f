// SPDX-License-Identifier: Apache-2.0
// Namespaces and processes. The callers are single-threaded.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::launch {

struct StartTime {  // one moment, by the host's clocks
  std::uint64_t boottime_ns = 0;
  std::int64_t realtime_s = 0;
};

// From here on the children of this process are born in a time namespace of their own, whose
// CLOCK_BOOTTIME and CLOCK_MONOTONIC start at zero now (time_namespaces(7)).
Result<StartTime> start_time_namespace();

struct Child {
  pid_t pid = 0;
  UniqueFd pidfd;
};
// clone3(2) with the CLONE_NEW flags in `namespaces`, as fork(2): nullopt in the child.
Result<std::optional<Child>> clone_child(std::uint64_t namespaces);

// A descriptor of the process `pid` that was started at `starttime` (container::read_starttime).
// ESRCH when it is gone, also when its pid went to another process.
Result<UniqueFd> open_process(pid_t pid, std::uint64_t starttime);

// setns(2) into the namespaces of a process.
Result<void> join_namespaces(int pidfd, int namespaces);

// SIGKILL when the launcher dies, however it dies. The kernel forgets this at every change of
// credentials: call it again after one.
Result<void> die_with_parent(bool yes);

// Waits for a child and gives its end as a shell does: the exit code or 128 + signal.
Result<int> wait_exit_code(int pidfd);

}  // namespace umwelt::launch
