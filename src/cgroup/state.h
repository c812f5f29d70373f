// SPDX-License-Identifier: Apache-2.0
// What the kernel enforces on a container and what it has used: plain structs, the same for cgroup
// v1, v2 and hybrid. Outside this folder nobody asks which version it is.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/cpu_set.h"

namespace umwelt::cgroup {

struct Bandwidth {  // at most quota_us of CPU time in each period_us
  std::uint64_t quota_us = 0;
  std::uint64_t period_us = 100000;
  double cpus() const { return static_cast<double>(quota_us) / static_cast<double>(period_us); }
  friend bool operator==(const Bandwidth&, const Bandwidth&) = default;
};

struct HugetlbLimit {
  std::uint64_t page_bytes = 0;
  std::uint64_t max_bytes = 0;
  friend bool operator==(const HugetlbLimit&, const HugetlbLimit&) = default;
};

// Changes only when somebody writes a control file or a CPU goes on- or offline. Every value is
// the minimum (the intersection) over the cgroup and all its ancestors. nullopt: no limit.
struct Limits {
  CpuSet cpus;                         // effective cpuset, only CPUs that are online
  CpuSet mems;                         // effective memory nodes
  std::optional<Bandwidth> bandwidth;  // the smallest quota/period
  std::optional<std::uint64_t> memory_max_bytes;
  std::optional<std::uint64_t> swap_max_bytes;  // swap alone (v1: memsw limit - memory limit,
                                                // and 0 with a memory.swappiness of 0)
  std::optional<std::uint64_t> pids_max;
  std::vector<HugetlbLimit> hugetlb;  // ascending by page size; sizes without a limit are left out
  friend bool operator==(const Limits&, const Limits&) = default;
};

// memory.stat of the container itself, with all of its descendants, in bytes. v1's names are
// mapped to v2's (docs/views/meminfo.md has the table). nullopt: this kernel has no such count.
struct MemoryStat {
  std::uint64_t anon = 0, file = 0, file_mapped = 0, file_dirty = 0, file_writeback = 0, shmem = 0;
  std::uint64_t inactive_anon = 0, active_anon = 0, inactive_file = 0, active_file = 0;
  std::uint64_t unevictable = 0, anon_thp = 0, swapcached = 0;
  std::optional<std::uint64_t> file_thp, shmem_thp;
  std::optional<std::uint64_t> kernel_stack, pagetables, sec_pagetables, percpu, sock, vmalloc;
  std::optional<std::uint64_t> slab_reclaimable, slab_unreclaimable;
  std::optional<std::uint64_t> zswap, zswapped;
  std::optional<std::uint64_t> kernel;  // all kernel memory (v1: kmem.usage_in_bytes)
};

struct Memory {
  // Of the container. v2 tells the swap by a file of its own: 0 unless it was asked for, or the
  // container limits it itself.
  MemoryStat stat;
  std::uint64_t usage_bytes = 0, swap_usage_bytes = 0;
  // Of the cgroup that sets Limits::memory_max_bytes (the container or an ancestor); equal to the
  // container's where it sets the limit itself or nobody does.
  std::uint64_t limit_usage_bytes = 0;
  std::uint64_t limit_inactive_file = 0, limit_active_file = 0, limit_slab_reclaimable = 0;
  // What the cgroups above that one, which have larger limits, leave: the least of their limit less
  // what is used and can't be reclaimed. On v1 also what the limit on memory and swap leaves where
  // swap has more than its part.
  std::uint64_t above_available_bytes = std::numeric_limits<std::uint64_t>::max();
  // Of the cgroup that sets Limits::swap_max_bytes; not read where nobody does, or (v2) that
  // is 0.
  std::uint64_t limit_swap_usage_bytes = 0;
};

// The counters of memory.stat by their names (v1: the total_ lines without that prefix), also those
// that MemoryStat has.
using MemoryEvents = std::vector<std::pair<std::string, std::uint64_t>>;

// CPU time used since the cgroup was made, with all descendants, in ns.
struct CpuTime {
  std::uint64_t user_ns = 0, nice_ns = 0, system_ns = 0;
  std::uint64_t throttled_ns = 0;  // time that runnable tasks were held by a quota
  // v1 cpuacct only: (physical CPU, busy ns); empty on v2.
  std::vector<std::pair<unsigned, std::uint64_t>> per_cpu;
};

// Tasks of the container (descendant cgroups included).
struct Tasks {
  std::uint64_t total = 0;    // threads
  std::uint64_t running = 0;  // running or runnable
  std::uint64_t uninterruptible = 0;
  std::uint64_t processes = 0;
  std::uint32_t newest = 0;  // the task made last, as far as its id tells; 0: none
};

// Block I/O on one device since the cgroup was made, with all descendants.
struct DeviceIo {
  unsigned major = 0, minor = 0;
  std::uint64_t read_bytes = 0, written_bytes = 0, discarded_bytes = 0;
  std::uint64_t reads = 0, writes = 0, discards = 0;
};

// The text of cgroup2's pressure files; nullopt where there is none (v1, psi=0, an older kernel).
struct Pressure {
  std::optional<std::string> cpu, memory, io, irq;
};

// Of the cgroup that sets the limit (the container or an ancestor), as in Memory.
struct HugetlbUsage {
  std::uint64_t page_bytes = 0;
  std::uint64_t usage_bytes = 0;
};

// One picture. A part that was not asked for is nullopt.
struct State {
  Limits limits;
  std::optional<Memory> memory;
  std::optional<MemoryEvents> memory_events;
  std::optional<CpuTime> cpu_time;
  std::optional<Tasks> tasks;
  std::optional<std::vector<DeviceIo>> io;  // ascending by device
  std::optional<Pressure> pressure;
  std::optional<std::vector<HugetlbUsage>> hugetlb;  // ascending by page size
};

}  // namespace umwelt::cgroup
