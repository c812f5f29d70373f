// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cgroup/cgroupstats.h"
#include "cgroup/directory.h"
#include "cgroup/state.h"

namespace umwelt::cgroup {

// Counts the tasks of a cgroup and of its descendants, of which at most kMaxCgroups are visited.
// Their states come from cgroupstats on v1, else from /proc, of at most kMaxThreads threads: of
// more, an even sample is read and scaled up. Not thread-safe.
class TasksReader {
 public:
  static constexpr std::size_t kMaxCgroups = 1024;
  static constexpr std::size_t kMaxThreads = 1024;

  // `directory` outlives the reader. `root` has the proc/ that its task ids are of.
  TasksReader(const Directory* directory, std::string root);

  // Opens what is not open yet.
  Result<void> refresh();

  Result<Tasks> read(std::string& buffer);

 private:
  struct Counted;  // what one walk over the subtree has counted so far
  Result<void> count_cgroup(int fd, std::string& buffer, Counted& counted);
  Result<void> count_states(int fd, Counted& counted);
  Result<void> count_descendants(std::string& buffer, Counted& counted);
  Result<void> read_states(std::string& buffer, Counted& counted);
  Result<void> open_proc();
  std::uint64_t read_last_pid(std::string& buffer);

  const Directory* directory_;
  std::string root_;
  HeldFile pids_current_;
  UniqueFd proc_, loadavg_;
  bool try_cgroupstats_;
  std::optional<Cgroupstats> cgroupstats_;
};

}  // namespace umwelt::cgroup
