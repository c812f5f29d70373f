// SPDX-License-Identifier: Apache-2.0
// Mounts by descriptor (fsopen(2), open_tree(2), move_mount(2)), so that no path of a root
// filesystem that somebody else made is ever resolved twice or outside of it. A mount that is held
// by its descriptor alone vanishes with it.
#pragma once

#include <sys/mount.h>
#include <sys/types.h>

#include <initializer_list>
#include <string>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::launch {

// A filesystem's option; one with an empty value is a flag.
using MountOption = std::pair<std::string, std::string>;

// Makes a mount of a new instance. `attributes` are MOUNT_ATTR_ flags.
Result<UniqueFd> make_filesystem(const std::string& type,
                                 std::initializer_list<MountOption> options, unsigned attributes);

// A copy of what is mounted at a path (file or directory); `recursive` with everything mounted
// below it. "" as path: `dir` itself.
Result<UniqueFd> clone_mount(int dir, const std::string& path, bool recursive);

// Adds MOUNT_ATTR_ flags, and takes the mount out of every propagation.
Result<void> restrict_mount(int mount, std::uint64_t attributes, bool recursive);

// Attaches a mount on top of the file or directory that `target` is open on.
Result<void> attach_mount(int mount, int target);

// The same below the mount whose root `target` is: it is seen when that is taken away. EINVAL
// before Linux 6.5, and right below the mount namespace's first mount.
Result<void> attach_mount_beneath(int mount, int target);

enum class TargetKind { kDirectory, kFile };

// A mount point in a root filesystem, opened O_PATH. Symlinks are resolved within `root`; what is
// missing is made, as root:root 0755 directories and an empty file.
Result<UniqueFd> open_target(int root, const std::string& path, TargetKind kind);

// The same for a path that must exist and has no symlink in it. ELOOP when it has.
Result<UniqueFd> open_plain(int root, const std::string& path, int flags);

// Whether something is mounted on `path` itself.
bool is_mount_point(const std::string& path);

}  // namespace umwelt::launch
