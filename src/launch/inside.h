// SPDX-License-Identifier: Apache-2.0
// Working in the mount namespace of somebody else's process, from a program with threads.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::launch {

inline constexpr std::chrono::milliseconds kWithoutEnd{0};
// For what containers hold, and may be anybody's.
inline constexpr std::chrono::seconds kAttachPatience{2};

// Does `work`, which must own what it uses, in a thread that may enter a mount namespace: it shares
// nothing but memory with this process. ETIMEDOUT after `patience`: the thread is left to itself,
// and can't be killed.
Result<void> in_thread(std::chrono::milliseconds patience, std::function<Result<void>()> work);

// The mount namespace of a process, and its root directory in there. EINVAL: it is in this
// process's own.
struct Inside {
  UniqueFd mount_namespace, root;
};
Result<Inside> open_inside(pid_t process);
Result<void> enter(const Inside& inside);

// statx(2) without a message to the server of a filesystem, which may be dead.
Result<struct statx> stat_cached(int fd);

// "Transport endpoint is not connected": a FUSE filesystem that nobody serves any more. A living
// one is asked, which may not answer: only for views.
bool is_dead(int fd);

// Takes away what is mounted on `name` in a directory.
Result<void> detach(int parent, const std::string& name);

// Puts `mount` in the place of it. A reader finds one or the other; what they cover is seen for a
// moment only where attach_mount_beneath() can't be had.
Result<void> replace(int parent, const std::string& name, int mount);

}  // namespace umwelt::launch
