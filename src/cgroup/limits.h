// SPDX-License-Identifier: Apache-2.0
// The limits of a cgroup and its ancestors, one function a kind. Each walks up to the hierarchy's
// root; a level without the file (the root, or a controller that is not enabled there) limits
// nothing. `buffer` is scratch space. The caller asks Directory::check_alive() afterwards.
//
// v2 memory.high is no limit: it slows a cgroup down above it, but lets it grow.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cgroup/directory.h"
#include "cgroup/state.h"

namespace umwelt::cgroup {

// The nearest level whose effective cpuset has an online CPU; all of `online` without one. The
// kernel has already intersected it with the ancestors'.
Result<CpuSet> read_cpus(const Directory& directory, const CpuSet& online, std::string& buffer);
// The same of memory nodes; empty without one.
Result<CpuSet> read_mems(const Directory& directory, std::string& buffer);

// The smallest quota/period.
struct BandwidthLimit {
  std::optional<Bandwidth> bandwidth;
  unsigned level = 0;        // where it is set
  bool of_ancestor = false;  // whether an ancestor has one, too, be it larger
};
Result<BandwidthLimit> read_bandwidth(const Directory& directory, std::string& buffer);

struct MemoryLimit {
  std::optional<std::uint64_t> max_bytes, swap_max_bytes;
  // Where max_bytes is set; 0 when it is nowhere. Of equal limits the topmost, which is reached
  // first: its usage includes that of the levels below it.
  unsigned level = 0;
  // Levels above that one, from below, which limit to more than it. What others use there may leave
  // less than max_bytes all the same.
  struct Above {
    unsigned level;
    std::uint64_t max_bytes;
    bool operator==(const Above&) const = default;
  };
  std::vector<Above> above;
  unsigned swap_level = 0;  // the same of what limits swap (v1: memory and swap together)
  bool swaps = true;        // v1: whether its limit makes the kernel swap, by memory.swappiness
};
Result<MemoryLimit> read_memory_limit(const Directory& directory, std::string& buffer);

// The smallest number that a file has at any level: v2 pids.max (also on v1) and the like, v1
// limit_in_bytes files.
struct SmallestLimit {
  std::optional<std::uint64_t> max;
  unsigned level = 0;  // where it is set, as in MemoryLimit
};
Result<SmallestLimit> read_smallest(const Directory& directory, const std::string& file,
                                    std::string& buffer);

}  // namespace umwelt::cgroup
