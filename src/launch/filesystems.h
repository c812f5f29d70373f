// SPDX-License-Identifier: Apache-2.0
// The kernel's own filesystems in a container: /proc, /sys, /sys/fs/cgroup, /dev, /run; and what
// of them is hidden or read-only, as the OCI runtime specification and docker have it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cgroup/reader.h"

namespace umwelt::launch {

// One v1 hierarchy as /proc/self/cgroup names it ("cpu,cpuacct"), or cgroup2 ("").
struct CgroupMount {
  std::string controllers;
  friend bool operator==(const CgroupMount&, const CgroupMount&) = default;
};

// The hierarchies in which a process with this /proc/self/cgroup is at `path`: others would show
// a container somebody else's cgroup. cgroup2 beside v1 hierarchies carries no controller and is
// left out. Pure.
std::vector<CgroupMount> parse_cgroup_mounts(std::string_view proc_self_cgroup,
                                             const std::string& path);

// Of a filesystem in memory that is given none, for the `size` option of tmpfs(5): what the
// container may use of memory, since more can't be written; where that is not limited, half of the
// machine's.
std::string tmpfs_size(std::optional<std::uint64_t> memory_bytes);

// But for /sys/fs/cgroup. `memory_bytes`: the container's limit.
Result<void> mount_filesystems(int root, std::optional<std::uint64_t> memory_bytes);

// The hierarchies; from a cgroup namespace of its own. After mount_filesystems().
Result<void> mount_cgroups(int root, const std::vector<CgroupMount>& cgroups);

// Empties and read-only paths. After mount_filesystems(). Without `views` in their place also the
// machine's interrupts, what its CPUs tell of their heat, and its blocks of memory.
Result<void> hide_paths(int root, bool views);

// An empty, unwritable directory over `path`, where there is one.
Result<void> cover_directory(int root, const std::string& path);

}  // namespace umwelt::launch
