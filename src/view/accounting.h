// SPDX-License-Identifier: Apache-2.0
// The views that need a history, each as State next(State previous, Sample sample). Pure: time
// is an argument.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "cgroup/state.h"

namespace umwelt::view {

// CPU time of one shown CPU since the container's start, ns.
struct ShownCpuTime {
  std::uint64_t user_ns = 0, nice_ns = 0, system_ns = 0, idle_ns = 0, steal_ns = 0;
};

// Between two samples, over the shown CPUs: idle + busy + steal = elapsed x count. No sum over the
// shown CPUs ever goes back, whatever the limits did in between, and none rises by more than that:
// a CPU that is no longer shown leaves its counters to one that came in its place, or else to the
// first shown CPU. No counter of a CPU goes back as long as it is shown; when it comes back it
// starts anew. Idle time is left in whole ticks; the heir's next idle time pays for the rounding.
struct CpuAccounting {
  std::uint64_t boottime_ns = 0;           // of the last sample; 0: none yet
  cgroup::CpuTime used;                    // of the last sample
  cgroup::CpuTime before;                  // used before the container's start; not per CPU
  std::map<unsigned, ShownCpuTime> by_id;  // of the CPUs that the last sample showed, by shown id
  // Used (user, nice, system) but not yet placed, for lack of room on the CPUs: the clock and the
  // counters are not read in one instant. At most a second for each shown CPU.
  cgroup::CpuTime pending;
  std::uint64_t forks = 0;  // a lower bound, from the rises of the number of processes
  std::uint64_t processes = 0;
};

struct CpuSample {
  std::uint64_t boottime_ns = 0;
  cgroup::CpuTime used;
  std::vector<std::pair<unsigned, unsigned>> shown;  // (shown id, physical id), ascending by id
  std::optional<std::uint64_t> processes;            // now, when they were counted
  double cpus = 0;  // as many as it may use at once: allowed CPUs, quota; 0: unknown
};

// A first sample starts from the container's start (`start_boottime_ns`). If more was used than
// there was time for since, the cgroup is older, and nobody knows what of it is the container's:
// then its time starts from that sample.
CpuAccounting next(CpuAccounting previous, const CpuSample& sample,
                   std::uint64_t start_boottime_ns);

// The kernel's own formula (kernel/sched/loadavg.c), in floating point and for any interval.
struct LoadAccounting {
  std::uint64_t boottime_ns = 0;  // of the last sample; 0: none yet
  double load1 = 0, load5 = 0, load15 = 0;
  std::uint64_t busy_ns = 0;             // of the last sample
  std::uint64_t waited_ns = 0;           // of the last sample
  std::uint64_t running = 0, total = 0;  // tasks, for the fourth field
  std::uint64_t last_pid = 0;            // as the container numbers it
};

struct LoadSample {
  std::uint64_t boottime_ns = 0;
  std::uint64_t busy_ns = 0;    // CPU time used since the cgroup was made, with throttled time
  std::uint64_t before_ns = 0;  // what of it was used before the container's start, if any
  std::uint64_t active = 0;     // tasks running, runnable or uninterruptible now
  double cpus = 0;              // as many as it may use at once: allowed CPUs, quota; 0: unknown
  // Time in which at least one task waited for a CPU or for I/O, since the cgroup was made; then
  // `busy_ns` is without throttled time, which is waiting, too. nullopt: not measured.
  std::optional<std::uint64_t> waited_ns = {};
  std::uint64_t running = 0, total = 0, last_pid = 0;
};

// For an interval that nobody sampled, the average number of active tasks is taken from the CPU
// time used in it; so the first read of a container that nobody had asked about is right, too.
// While tasks were waiting (measured, or seen in that it used all the CPU time that it may have) as
// many are taken to have been active as are now.
LoadAccounting next(LoadAccounting previous, const LoadSample& sample,
                    std::uint64_t start_boottime_ns);

// Block I/O by (major, minor). v1 loses what a nested cgroup did when that is removed, and both
// versions what was done on a device that is gone: kept here, so that no counter goes back.
struct CountedIo {
  cgroup::DeviceIo last;  // of the last sample
  cgroup::DeviceIo lost;  // by which the samples went back so far
};
using IoAccounting = std::map<std::pair<unsigned, unsigned>, CountedIo>;
IoAccounting next(IoAccounting previous, const std::vector<cgroup::DeviceIo>& sample);
std::vector<cgroup::DeviceIo> shown_io(const IoAccounting& accounting);  // ascending by device

}  // namespace umwelt::view
