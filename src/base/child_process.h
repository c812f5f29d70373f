// SPDX-License-Identifier: Apache-2.0
// Processes in new namespaces. The callers are single-threaded.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt {

struct ChildProcess {
  pid_t pid = 0;
  UniqueFd pidfd;
};

// clone3(2) with the CLONE_NEW flags in `namespaces`, as fork(2): nullopt in the child. It is born
// in the v2 cgroup whose directory `cgroup` is, by default in that of the caller.
Result<std::optional<ChildProcess>> clone_child(std::uint64_t namespaces, int cgroup = -1);

// For a child that needs nothing else of its parent's, be it somebody's pipe or a lock. Negative
// ones are ignored.
void close_all_but(std::vector<int> kept);

// SIGKILL when the parent dies, however it dies. The kernel forgets this at every change of
// credentials: call it again after one.
Result<void> die_with_parent(bool yes);

// Waits for a child and gives its end as a shell does: the exit code or 128 + signal.
Result<int> wait_exit_code(int pidfd);

// Runs `work` in a fork of this process, without its standard streams, and gives its text. For work
// in somebody else's filesystems: with a system call, or a thread (launch/attach.h), that one of
// them never answers a process can't end. ETIMEDOUT: after `patience`, or from `work`; the process
// is left to itself then.
Result<std::string> run_apart(const std::function<Result<std::string>()>& work,
                              std::optional<std::chrono::milliseconds> patience = {});

// What a program, command[0] with a path, writes to stdout. Its other standard streams are
// /dev/null, and it has no other descriptor of ours. EFBIG: more than `most` bytes; ETIMEDOUT: it
// has not ended after `patience`; it is killed then, with its session. Code 0: its exit code is
// not.
Result<std::string> output_of(const std::vector<std::string>& command, std::size_t most,
                              std::chrono::milliseconds patience);

}  // namespace umwelt
