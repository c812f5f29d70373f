// SPDX-License-Identifier: Apache-2.0
// The one story: every file, directory listing and virtualised syscall of a container is made from
// one Resources value, so that none contradicts another. Pure: no I/O, no clock.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/cpu_set.h"
#include "cgroup/state.h"
#include "host/facts.h"
#include "view/accounting.h"

namespace umwelt::view {

enum class CpuPolicy { kCeil, kFloor, kCpuset };  // how a fractional quota becomes a count
enum class CpuIds { kAuto, kDense, kHost };       // which numbers the shown CPUs have
enum class UptimePolicy { kAuto, kContainer, kHost };

struct Policy {
  CpuPolicy cpu_policy = CpuPolicy::kCeil;
  CpuIds cpu_ids = CpuIds::kAuto;
  UptimePolicy uptime = UptimePolicy::kAuto;
  bool affinity_virtualised = false;  // kAuto is dense then, else host
};

// A block device that belongs to one container alone, such as the loop device of its vdisk.
struct Disk {
  unsigned major = 0, minor = 0;  // the host's numbers
  std::string name;               // that the container sees; the host's where it is empty
  // Its columns of /proc/diskstats when the container got it: a loop device keeps those of the
  // files that it had before.
  std::vector<std::uint64_t> counts_before = {};
  friend bool operator==(const Disk&, const Disk&) = default;
};

// What is told of a container besides its cgroup and the host.
struct Identity {
  std::string id, name, hostname;
  std::uint64_t start_boottime_ns = 0;               // CLOCK_BOOTTIME of the host at its start
  std::int64_t start_realtime_s = 0;                 // seconds since the epoch at its start
  bool time_namespace = false;                       // its clocks begin at its start
  bool limited = true;                               // false: the host itself, shown as it is
  std::optional<std::uint64_t> disk_capacity_bytes;  // of its root filesystem, where it is limited
  std::optional<Disk> disk;                          // that filesystem's own device
  Policy policy;
};

struct ShownCpu {
  unsigned id = 0;        // the number that the container sees
  unsigned physical = 0;  // the host's number
};

struct Cpus {
  CpuSet allowed;                     // physical: effective cpuset and online
  std::vector<ShownCpu> shown;        // ascending by id; never empty
  CpuSet online;                      // the shown ids
  CpuSet present, possible, offline;  // what the files of those names say
  CpuSet enabled, isolated;
  unsigned kernel_max = 0;
  bool dense = false;
  std::optional<cgroup::Bandwidth> bandwidth;
  unsigned count() const { return static_cast<unsigned>(shown.size()); }
  const ShownCpu* by_id(unsigned id) const;  // nullptr: not shown
  // A set of physical ids as the container sees it: CPUs that are not shown fall away.
  CpuSet translate(const CpuSet& physical) const;
};

// A memory node whose memory the container may use, and how much the node has.
struct NodeMemory {
  unsigned node = 0;
  std::uint64_t bytes = 0;
};

// Memory nodes have the host's numbers always: get_mempolicy(2) and the like speak of those. A set
// that the host does not have (no NUMA support) is empty.
struct Nodes {
  CpuSet online;  // those of the shown CPUs, and those whose memory the container may use
  CpuSet possible, has_cpu, has_memory, has_normal_memory, has_generic_initiator;
  std::vector<NodeMemory> memory;  // of has_memory, ascending
  CpuSet host_online;
  bool restricted = false;  // some of the host's memory is on nodes that it may not use
};

// Bytes. Field by field what /proc/meminfo shows; see docs/views/meminfo.md.
struct Memory {
  bool limited = false;  // false: the host's own figures are shown
  // free counts the usage of the cgroup that sets the limit; free <= available <= total.
  std::uint64_t total = 0, free = 0, available = 0;
  std::uint64_t usage = 0;  // of the container
  // Of the container, clipped so that file + slab_reclaimable <= total - free (old versions of
  // free(1) subtract them) and that no part is larger than its whole.
  cgroup::MemoryStat stat;
  bool swap_limited = false;
  std::uint64_t swap_total = 0, swap_free = 0;
};

struct Load {
  double load1 = 0, load5 = 0, load15 = 0;
  std::uint64_t running = 0, total = 0, last_pid = 0;  // running: with who reads
};

struct Uptime {
  std::uint64_t uptime_ns = 0, idle_ns = 0;  // idle: summed over the shown CPUs
  std::int64_t btime_s = 0;
};

// Huge pages of one size, of which the container may have some only. Bytes.
struct HugePages {
  std::uint64_t page_bytes = 0;
  std::uint64_t max = 0, usage = 0;
};

// Everything that can be shown. The parts that a file needs (view/files.h) are filled in; the
// others are at their neutral defaults.
struct Resources {
  Identity identity;
  host::Facts host;
  Cpus cpus;
  Nodes nodes;
  Memory memory;
  std::vector<HugePages> huge_pages;    // of the sizes that are limited
  std::vector<ShownCpuTime> cpu_times;  // one per Cpus::shown, same order
  cgroup::Pressure pressure;
  Load load;
  Uptime uptime;
  std::optional<std::uint64_t> pids_max;
  std::optional<std::uint64_t> swap_max;    // the limit itself, for container_info
  std::optional<std::uint64_t> memory_max;  // nullopt also when it is not below the host's memory
  std::vector<cgroup::DeviceIo> io;         // of the container, ascending by device
  cgroup::MemoryEvents memory_events;
  std::uint64_t processes = 0, procs_running = 0, procs_blocked = 0;  // running: with who reads
};

// What the stateful parts (accounting.h) said at this moment; left out for files without them.
struct Moment {
  std::uint64_t boottime_ns = 0;  // CLOCK_BOOTTIME of the host
  const CpuAccounting* cpu = nullptr;
  const LoadAccounting* load = nullptr;
};

// Which CPUs are shown, by the allowed set, the quota and the policy alone.
Cpus choose_cpus(const host::Cpus& host, const cgroup::Limits& limits, const Policy& policy);

// The nodes of the shown CPUs and of the memory that `mems` (empty: any) allows.
Nodes choose_nodes(const host::Cpus& host, const CpuSet& mems, const Cpus& cpus);

// Whether its btime is its start. The start times of processes (proc(5)) count from btime: without
// a time namespace they count from the machine's boot, and a later one would put them in the
// future, for all who add the two. UptimePolicy::kContainer has it nevertheless.
bool has_own_btime(const Identity& identity);

Resources resources(host::Facts facts, const cgroup::State& state, const Identity& identity,
                    const Moment& moment);

}  // namespace umwelt::view
