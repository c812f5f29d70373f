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
  // The cost grows with the depth; call it when something changed.
  Result<Limits> read_limits(const CpuSet& online);
  const Limits& limits() const;  // as of the last time

  // Whether the CPUs or the memory nodes are others than at the last read_limits(): the limits that
  // can change without a write to one of limit_files(). Also true once the cpuset's cgroup is gone.
  // 6 syscalls where both are set.
  Result<bool> sets_changed(const CpuSet& online);

  // The limits as of the last read_limits() and the asked parts, fresh. At most 4 syscalls a part,
  // at any depth of the cgroup. kTasks costs about 10, as many again for each cgroup below it, and
  // on v2, where no cgroupstats is, 3 for each of at most 1024 threads.
  Result<State> read(unsigned parts);

  // The container's own pressure file ("cpu", "memory", "io", "irq"), opened for reading and
  // writing: for a trigger. ENOENT where there is none (v1, cgroup2's root, psi=0).
  Result<UniqueFd> open_pressure(const std::string& resource) const;

  // Absolute paths of every file whose change can change Limits, for a watch.
  std::vector<std::string> limit_files() const;

  // For people: the files behind a value, and what is in them (origin.h).
  std::vector<KernelValue> origin_of(std::string_view name) const;

  // Inode of the container's directory in the hierarchy that carries its memory (else any): tells
  // a directory from a later one of the same name.
  std::uint64_t inode() const;

 private:
  Reader();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace umwelt::cgroup
