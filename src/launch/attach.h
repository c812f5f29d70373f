// SPDX-License-Identifier: Apache-2.0
// The daemon's files into a container that somebody else made, or that lost them: running, or
// between the mounts of an OCI runtime and its pivot_root(2).
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "base/result.h"
#include "container/record.h"
#include "launch/inside.h"

namespace umwelt::launch {

struct Attached {
  unsigned mounted = 0;              // now
  unsigned present = 0;              // that were there and alive, from this daemon
  std::vector<std::string> skipped;  // that this container has no place for, with the reason
};

// Mounts the views that the daemon offers of `record` (all, or what keep_choice() says) in the
// mount namespace of its init process. A view that is there already stays; what is left there of a
// daemon that died makes room, so nothing is ever stacked on a dead or an own mount. All
// or nothing: after an error none is there that was not before. A file of run/ is made if need be,
// but not in a volume.
//
// `root`: the container's "/" as an absolute path of that namespace, without symbolic links; "":
// the root directory of the process itself.
//
// Thread-safe, and for programs with threads: the work is done in a thread of its own, which enters
// the namespace; nothing forks. The daemon must serve `record` when this is called. Never mounts
// anywhere that another mount namespace would see it.
//
// What is mounted in the container may be served by a program that does not answer. After
// `patience` the thread is left to itself: it goes on if there is an answer, shares nothing but
// memory with the process, and can't be killed, so that the process can't quite end before.
//
// ESRCH: the process is gone. ELOOP: a symbolic link in the place of /proc or /sys. EINVAL: it has
// no mount namespace of its own. EPERM: /proc or /sys are not the kernel's, or shared with the
// host. ETIMEDOUT: there was no answer.
Result<Attached> attach_views(const container::Record& record,
                              const container::Directories& directories,
                              const std::string& root = {},
                              std::chrono::milliseconds patience = kWithoutEnd);

// Which groups of views container `id` gets, also when they are attached again after a daemon died;
// none of them: all. Kept beside the container's record, and as long.
Result<void> keep_choice(const std::string& id, const std::vector<std::string>& groups,
                         const container::Directories& directories);

// What keep_choice() kept.
Result<std::vector<std::string>> read_choice(const std::string& id,
                                             const container::Directories& directories);

// The same in the caller's own mount namespace, which must not be the host's.
Result<Attached> attach_views_here(const container::Record& record,
                                   const container::Directories& directories,
                                   const std::string& root);

}  // namespace umwelt::launch
