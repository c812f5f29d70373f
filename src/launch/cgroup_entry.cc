// SPDX-License-Identifier: Apache-2.0
#include "launch/cgroup_entry.h"

#include <fcntl.h>
#include <sched.h>

#include "base/file.h"

namespace umwelt::launch {
namespace {

bool is_real_time() {
  const int policy = ::sched_getscheduler(0) & ~SCHED_RESET_ON_FORK;
  return policy == SCHED_FIFO || policy == SCHED_RR;
}

}  // namespace

Result<UniqueFd> open_v2_cgroup(const CgroupDirectories& directories) {
  if (directories.v2.empty()) return UniqueFd();
  auto directory = open_at(AT_FDCWD, directories.v2, O_PATH | O_DIRECTORY);
  if (!directory) return fail(directory.error().code, "enter the container's cgroup");
  return directory;
}

Result<void> enter_v2_cgroup(const CgroupDirectories& directories) {
  const auto done = write_file_at(AT_FDCWD, directories.v2 + "/cgroup.procs", "0");
  if (!done) return fail(done.error().code, "move a process to cgroup " + directories.v2);
  return {};
}

Result<void> enter_v1_cgroups(const CgroupDirectories& directories) {
  for (const std::string& directory : directories.v1) {
    const auto done = write_file_at(AT_FDCWD, directory + "/tasks", "0");  // 0: the writer
    if (done) continue;
    // A kernel with CONFIG_RT_GROUP_SCHED, which gives a new cgroup no real-time budget.
    if (done.error().code == EINVAL && is_real_time())
      return fail(0,
                  "the cpu cgroup takes no process with a real-time scheduling policy: start "
                  "umwelt with chrt --other 0");
    return fail(done.error().code, "move a process to cgroup " + directory);
  }
  return {};
}

}  // namespace umwelt::launch
