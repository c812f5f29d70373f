// SPDX-License-Identifier: Apache-2.0
// Entering namespaces. The callers are single-threaded.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::launch {

struct StartTime {  // one moment, by the host's clocks
  std::uint64_t boottime_ns = 0;
  std::int64_t realtime_s = 0;
};
StartTime start_now();

// From here on the children of this process are born in a time namespace of their own, whose
// CLOCK_BOOTTIME and CLOCK_MONOTONIC start at zero now (time_namespaces(7)).
Result<StartTime> start_time_namespace();

// A descriptor of the process `pid` that was started at `starttime` (container::read_starttime).
// ESRCH when it is gone, also when its pid went to another process.
Result<UniqueFd> open_process(pid_t pid, std::uint64_t starttime);

// setns(2) into the namespaces of a process.
Result<void> join_namespaces(int pidfd, int namespaces);

// In a new network namespace the loopback interface is there, but down.
Result<void> raise_loopback();

}  // namespace umwelt::launch
