// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "base/apart.h"
#include "base/result.h"
#include "cgroup/directory.h"
#include "cgroup/state.h"

namespace umwelt::cgroup {

// Counts the tasks of a cgroup and of its descendants, of which at most kMaxCgroups are visited.
// Their states come from cgroupstats on v1, else from /proc, of at most kMaxThreads threads: of
// more, an even sample is read and scaled up. Not thread-safe. The descendants, whose directories a
// container may keep locked, are counted in a thread; after 200 ms they count as they did before.
class TasksReader {
 public:
  static constexpr std::size_t kMaxCgroups = 1024;
  static constexpr std::size_t kMaxThreads = 1024;

  // `directory` outlives the reader. `root` has the proc/ that its task ids are of.
  TasksReader(const Directory* directory, std::string root);
  TasksReader(TasksReader&&) noexcept;
  TasksReader& operator=(TasksReader&&) noexcept;
  ~TasksReader();

  // Takes the files that are there by now (HeldFile::refresh()).
  void refresh();

  Result<Tasks> read(std::string& buffer);

 private:
  struct Counted;
  class Counter;
  struct Below;  // what counts the descendants
  Result<void> count_below(Counted& counted);
  Result<void> read_states(std::string& buffer, Counted& counted);
  Result<void> open_proc();
  std::uint64_t read_last_pid(std::string& buffer);

  const Directory* directory_;
  std::string root_;
  HeldFile pids_current_;
  UniqueFd proc_, loadavg_;
  std::unique_ptr<Counter> own_;
  Apart apart_;                   // for below_
  std::shared_ptr<Below> below_;  // once there were any
  std::unique_ptr<Counted> last_below_;
};

}  // namespace umwelt::cgroup
