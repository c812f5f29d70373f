// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cgroup/reader.h"
#include "container/history_file.h"
#include "container/record.h"
#include "host/reader.h"
#include "view/files.h"

namespace umwelt::container {

// One container as the filesystem sees it: its record, its cgroup reader and the history of its
// CPU time and load. Thread-safe; one lock per container, none across containers.
class Container {
 public:
  static constexpr std::uint64_t kUntilRefresh = std::numeric_limits<std::uint64_t>::max();

  // In two steps, of which only the first looks for files of the cgroup. ENODEV when there is no
  // such cgroup, or not the one of record.cgroup_inode. `limits_age_ns`: how old the limits may be
  // that a read shows; kUntilRefresh where a watch calls refresh(). An empty id becomes
  // "caller-INODE".
  struct Opened {
    cgroup::Reader reader;
    std::shared_ptr<const host::Cpus> cpus;
  };
  static Result<Opened> open_cgroup(const cgroup::Paths& paths,
                                    const cgroup::Hierarchies& hierarchies, host::Reader& host);
  static Result<std::shared_ptr<Container>> make(Record record, Opened opened,
                                                 std::shared_ptr<host::Reader> host,
                                                 std::uint64_t limits_age_ns);

  const Record& record() const { return record_; }

  // Everything that `needs` (bits of view::Need) asks for, in one consistent picture. EIO (with the
  // cause in its text) when the kernel's files can't be read; ENODEV when the cgroup is gone.
  // Running tasks are counted at most once a second.
  Result<view::Resources> resources(unsigned needs);

  // ETIMEDOUT, here and below: the container keeps a directory of its cgroup locked (Reader), and
  // all is as before.
  //
  // Reads the limits again; true when they, or the host's CPUs, changed what is shown. Then the
  // generation has been raised and `changed` called, before any refresh() of this container that
  // waits for this one returns. `changed` may read, but not refresh, the container.
  Result<bool> refresh(const std::function<void()>& changed = {});
  // The cheap half of refresh(), which does the other if it is true: whether something changed that
  // no file of limit_files() announces.
  Result<bool> changed_unannounced();
  std::uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

  Result<std::vector<std::string>> limit_files();  // ETIMEDOUT

  // For people: the files behind a value of the cgroup (cgroup/origin.h).
  std::vector<cgroup::KernelValue> origin_of(const std::string& name);

  // A pressure file ("cpu", "memory", "io", "irq") opened for reading and writing, for a trigger.
  // ENOENT where there is none; ENODEV when the cgroup is gone; ETIMEDOUT.
  Result<UniqueFd> open_pressure(const std::string& resource);

  // True once a read found the cgroup removed: it never comes back.
  bool gone() const { return gone_.load(std::memory_order_relaxed); }
  // CLOCK_BOOTTIME: of open(), and of the last resources() (0 before the first).
  std::uint64_t opened_ns() const { return opened_ns_; }
  std::uint64_t last_read_ns() const { return last_read_ns_.load(std::memory_order_relaxed); }

  // Called about once a second: keeps the history of containers that somebody reads.
  void tick();

  // Before the first read: goes on from the history in the file `path`, if there is one, and keeps
  // it there from then on: what an answer depends on is there before the answer is.
  void keep_history_in(const std::string& path);
  const std::string& history_path() const { return history_file_->path(); }  // after that
  // A read that has not ended yet leaves the file to who removes it.
  void stop_keeping_history();

 private:
  Container(Record record, std::shared_ptr<host::Reader> host,
            std::shared_ptr<const host::Cpus> cpus, cgroup::Reader reader,
            std::uint64_t limits_age_ns);

  // All with mutex_ held.
  Result<bool> read_limits(const std::shared_ptr<const host::Cpus>& cpus, std::uint64_t now);
  Result<cgroup::State> read_cgroup(unsigned needs, std::uint64_t now);
  void account(const cgroup::State& state, const host::Cpus& cpus, std::uint64_t now);
  void keep_history();
  std::uint64_t last_pid();
  std::int64_t start_by_clock() const;
  Error kernel_error(const Error& error);

  const Record record_;
  view::Identity identity_;  // constant, but for start_realtime_s, which mutex_ guards
  const std::shared_ptr<host::Reader> host_;
  const std::uint64_t limits_age_ns_;
  const std::uint64_t opened_ns_;
  std::atomic<std::uint64_t> generation_{1};
  std::atomic<std::uint64_t> last_read_ns_{0};
  std::atomic<bool> gone_{false};
  std::atomic<bool> shows_host_memory_{true};  // as of the last read: a figure of it that moves
  std::mutex refresh_mutex_;  // held over a refresh and its notice; taken before mutex_

  mutable std::mutex mutex_;  // guards everything below
  cgroup::Reader cgroup_;
  cgroup::Limits limits_;                   // as of limits_read_ns_
  std::shared_ptr<const host::Cpus> cpus_;  // that they were read with
  std::uint64_t limits_read_ns_;
  History history_;
  std::optional<HistoryFile> history_file_;  // its path is constant
  bool history_fails_ = false;               // to be kept
  cgroup::Tasks tasks_;                      // as of tasks_read_ns_
  std::uint64_t tasks_read_ns_ = 0;          // 0: never
  std::size_t pid_levels_ = 0;       // pid namespaces from the daemon's to its own; 0: not known
  std::uint64_t cpu_shown_ns_ = 0;   // last read that showed CPU time
  std::uint64_t load_shown_ns_ = 0;  // last read that showed the load
};

}  // namespace umwelt::container
