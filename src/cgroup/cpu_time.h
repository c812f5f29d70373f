// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/result.h"
#include "cgroup/directory.h"
#include "cgroup/state.h"

namespace umwelt::cgroup {

// `total_ns` divided into user, nice and system like `measured` (whose times need not add up to
// it), so that none of the three is below `previous` and they add up to `total_ns`. Where
// `total_ns` itself went back the result is `previous`. Pure.
CpuTime divide_cpu_time(const CpuTime& previous, const CpuTime& measured, std::uint64_t total_ns);

// The CPU time of a cgroup. v1: the sum is the scheduler's exact one (cpuacct.usage_percpu), the
// division is the ticks' (cpuacct.stat). At most 4 syscalls a read. Not thread-safe.
class CpuTimeReader {
 public:
  // `cpuacct` has the times and `cpu` the quota: one and the same on v2. Either may be null. They
  // outlive the reader.
  CpuTimeReader(const Directory* cpu, const Directory* cpuacct);

  // Takes the files that are there by now (HeldFile::refresh()).
  void refresh(bool ancestor_has_quota);

  Result<CpuTime> read(std::string& buffer);

 private:
  Result<CpuTime> read_v1(std::string& buffer);
  Result<CpuTime> read_v2(std::string& buffer);
  Result<std::uint64_t> read_throttled(std::string& buffer, std::uint64_t known_ns);

  const Directory* cpu_;
  const Directory* cpuacct_;
  HeldFile times_;         // v1: cpuacct.usage_percpu, v2: cpu.stat
  HeldFile cpuacct_stat_;  // v1
  HeldFile cpu_stat_;      // where it is not `times_`
  HeldFile cpu_stat_local_;
  bool ancestor_has_quota_ = false;
  CpuTime previous_;
};

}  // namespace umwelt::cgroup
