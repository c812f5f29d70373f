// SPDX-License-Identifier: Apache-2.0
// Processes in new namespaces. The callers are single-threaded.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt {

struct ChildProcess {
  pid_t pid = 0;
  UniqueFd pidfd;
};

// clone3(2) with the CLONE_NEW flags in `namespaces`, as fork(2): nullopt in the child.
Result<std::optional<ChildProcess>> clone_child(std::uint64_t namespaces);

// SIGKILL when the parent dies, however it dies. The kernel forgets this at every change of
// credentials: call it again after one.
Result<void> die_with_parent(bool yes);

// Waits for a child and gives its end as a shell does: the exit code or 128 + signal.
Result<int> wait_exit_code(int pidfd);

}  // namespace umwelt
