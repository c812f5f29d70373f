// SPDX-License-Identifier: Apache-2.0
// Where cgroups are: the mounted hierarchies, and a task's path in each. Source: cgroups(7).
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "base/result.h"

namespace umwelt::cgroup {

// Where this machine's cgroup hierarchies are mounted.
struct Hierarchies {
  std::map<std::string, std::string> v1;  // controller ("cpu", "name=systemd") -> mount point
  std::string v2;                         // mount point of cgroup2, "" when there is none
  // Parses mountinfo. Only mounts of a hierarchy's root count; the first one wins.
  static Result<Hierarchies> parse(std::string_view mountinfo);
  static Result<Hierarchies> read();  // of the calling process
};

// A container's cgroup in each hierarchy, relative to its root: controller -> "/umwelt/web", with
// "" as the controller of cgroup2. What /proc/PID/cgroup says, each controller by its own path.
using Paths = std::map<std::string, std::string>;

// EINVAL also for a path that leads out of the reader's cgroup namespace ("/../other").
Result<Paths> parse_proc_cgroup(std::string_view text);

// EINVAL unless `path` is absolute, below PATH_MAX and without "." and ".." components.
Result<void> check_path(std::string_view path);

}  // namespace umwelt::cgroup
