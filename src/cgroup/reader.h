// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "cgroup/hierarchies.h"
#include "cgroup/origin.h"
#include "cgroup/state.h"

namespace umwelt::cgroup {

// Which parts of State a caller needs (bits).
enum Part : unsigned {
  kMemory = 1U << 0,
  kCpuTime = 1U << 1,
  kTasks = 1U << 2,
  kIo = 1U << 3,
  kPressure = 1U << 4,
  kHugetlb = 1U << 5,
  kMemoryEvents = 1U << 6,
  kSwap = 1U << 7,  // kMemory with swap_usage_bytes
};

// Reads one container's cgroups through descriptors that it holds open. Not thread-safe: the owner
// serialises. Fails with ENODEV or ENOENT once the cgroup is gone, also when another one was made
// under the same name.
//
// A name may have to be looked up in a directory that the container keeps locked. open() is to be
// called where that does no harm; what else says so does it in a thread, and fails with ETIMEDOUT
// (EAGAIN without a thread) after 200 ms, then at once for as long as that thread is stuck.
class Reader {
 public:
  // `root` is "/" or a folder with recorded trees (the mount points of `hierarchies` are taken
  // below it). Reads the limits.
  static Result<Reader> open(const Hierarchies& hierarchies, const Paths& paths,
                             const std::string& root = "/",
                             const CpuSet& online = CpuSet::range(0, CpuSet::kMaxId));
  Reader(Reader&&) noexcept;
  Reader& operator=(Reader&&) noexcept;
  ~Reader();

  // Reads every limit of the cgroup and its ancestors again. `online` are the host's CPUs.
  // The cost grows with the depth; call it when something changed. ETIMEDOUT: they are as before.
  Result<Limits> read_limits(const CpuSet& online);
  const Limits& limits() const;  // as of the last time

  // Whether the CPUs or the memory nodes are others than at the last read_limits(): the limits that
  // can change without a write to one of limit_files(). Also true once the cpuset's cgroup is gone.
  // ETIMEDOUT as said above.
  Result<bool> sets_changed(const CpuSet& online);

  // The limits as of the last read_limits() and the asked parts, fresh. At most 4 syscalls a part,
  // at any depth of the cgroup. kTasks costs about 10, as many again for each cgroup below it, and
  // on v2, where no cgroupstats is, 3 for each of at most 1024 threads.
  Result<State> read(unsigned parts);

  // The container's own pressure file ("cpu", "memory", "io", "irq"), opened for reading and
  // writing: for a trigger. ENOENT where there is none (v1, cgroup2's root, psi=0). ETIMEDOUT.
  Result<UniqueFd> open_pressure(const std::string& resource);

  // Absolute paths of every file whose change can change Limits, for a watch. ETIMEDOUT.
  Result<std::vector<std::string>> limit_files();

  // For people: the files behind a value, and what is in them (origin.h). ETIMEDOUT.
  Result<std::vector<KernelValue>> origin_of(const std::string& name);

  // Inode of the container's directory in the hierarchy that carries its memory (where that is the
  // root, another one): tells a directory from a later one of the same name.
  std::uint64_t inode() const;

 private:
  Reader();
  struct Directories;
  struct Found;
  struct Sets;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace umwelt::cgroup
