// SPDX-License-Identifier: Apache-2.0
// What the machine says of itself: plain structs, no I/O. `reader.h` fills them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/cpu_set.h"
#include "host/tables.h"

namespace umwelt::host {

// One "key : value" line of /proc/cpuinfo, the key with the tabs that the kernel pads it with, so
// that it can be written back byte for byte.
struct CpuinfoField {
  std::string key;        // "model name"
  std::string separator;  // "\t: "
  std::string value;
};

// The lines of one CPU. Source: arch/*/kernel/cpu/proc.c.
struct CpuinfoBlock {
  unsigned processor = 0;  // physical id
  std::vector<CpuinfoField> fields;
  std::string end = "\n";  // what follows the last field: a blank line, on s390 nothing at the end
};

// The file is header, every block (each field a line, then `end`), trailer: byte for byte.
struct Cpuinfo {
  std::string header;                // before the first CPU ("vendor_id" on s390, MIPS)
  std::vector<CpuinfoBlock> blocks;  // as the kernel orders them: ascending by processor
  std::string trailer;               // after the last CPU ("Hardware" on ARM, "platform" on POWER)
};

// /sys/devices/system/cpu/cpuN/topology; absent values are nullopt.
struct CpuTopology {
  unsigned id = 0;
  std::optional<std::int64_t> physical_package_id;
  std::optional<std::int64_t> die_id;
  std::optional<std::int64_t> core_id;
  CpuSet thread_siblings;  // CPUs of the same core (core_cpus)
  CpuSet package_cpus;
};

struct Node {  // /sys/devices/system/node/nodeN
  unsigned id = 0;
  CpuSet cpus;
  std::uint64_t memory_bytes = 0;
};

// Changes only with CPU hotplug. Shared between containers, never changed once made.
struct Cpus {
  CpuSet online;
  CpuSet possible;
  CpuSet present;
  CpuSet isolated;                // isolcpus=
  std::optional<CpuSet> enabled;  // present and not disabled by firmware; since Linux 6.7
  unsigned kernel_max = 0;
  Cpuinfo cpuinfo;
  std::vector<CpuTopology> topology;  // ascending by id, of the online CPUs
  std::vector<Node> nodes;            // ascending by id; empty without NUMA support
  CpuSet nodes_possible, nodes_with_normal_memory, nodes_with_generic_initiator;
};

// One line of /proc/meminfo. Source: fs/proc/meminfo.c.
struct MeminfoRow {
  std::string key;          // "MemTotal"
  std::uint64_t value = 0;  // in bytes when `kib`, else a plain number (HugePages_*)
  bool kib = true;
};

struct Meminfo {
  std::vector<MeminfoRow> rows;  // in the kernel's order
  // The value of a whole key; nullopt when this kernel has no such line.
  std::optional<std::uint64_t> get(std::string_view key) const {
    for (const MeminfoRow& row : rows)
      if (row.key == key) return row.value;
    return std::nullopt;
  }
};

struct NodeMeminfo {  // /sys/devices/system/node/nodeN/meminfo
  unsigned id = 0;
  Meminfo meminfo;
};

// The fields of a "cpu" line of /proc/stat in USER_HZ ticks (proc(5)).
struct CpuTicks {
  std::uint64_t user = 0, nice = 0, system = 0, idle = 0, iowait = 0;
  std::uint64_t irq = 0, softirq = 0, steal = 0, guest = 0, guest_nice = 0;
};

struct Stat {
  CpuTicks total;
  std::vector<std::pair<unsigned, CpuTicks>> cpus;  // physical id, ascending
  std::uint64_t intr = 0, ctxt = 0, btime = 0, processes = 0, procs_running = 0, procs_blocked = 0;
  std::uint64_t softirq = 0;
  std::size_t intr_columns = 0;  // how many per-interrupt numbers follow the sum
  std::size_t softirq_columns = 0;
  std::string text;  // the file itself, for a container that is not limited at all
};

struct Swap {  // one line of /proc/swaps
  std::string filename, type;
  std::uint64_t size_bytes = 0, used_bytes = 0;
  std::int64_t priority = 0;
};

struct Uptime {
  std::uint64_t uptime_ns = 0, idle_ns = 0;
};

struct Loadavg {
  double load1 = 0, load5 = 0, load15 = 0;
  std::uint64_t running = 0, total = 0, last_pid = 0;
};

// The text of /proc/pressure/*; nullopt where this kernel has no such file.
struct Pressure {
  std::optional<std::string> cpu, memory, io, irq;
};

// One picture of the machine. The parts are immutable and shared; a part that was not asked for is
// null, from vmstat on also one that this kernel does not have.
struct Facts {
  std::shared_ptr<const Cpus> cpus;
  std::shared_ptr<const Meminfo> meminfo;
  std::shared_ptr<const Stat> stat;
  std::shared_ptr<const std::vector<Swap>> swaps;
  std::optional<Uptime> uptime;
  std::optional<Loadavg> loadavg;
  Pressure pressure;
  std::shared_ptr<const std::vector<NodeMeminfo>> node_meminfo;  // ascending by id
  std::shared_ptr<const Vmstat> vmstat;
  std::shared_ptr<const std::vector<Disk>> diskstats;
  std::shared_ptr<const std::vector<Partition>> partitions;
  std::shared_ptr<const PerCpuTable> interrupts;
  std::shared_ptr<const PerCpuTable> softirqs;
  std::shared_ptr<const Schedstat> schedstat;
  std::shared_ptr<const std::vector<Zone>> zoneinfo;
  std::shared_ptr<const std::vector<Buddy>> buddyinfo;
  std::shared_ptr<const Slabinfo> slabinfo;
  std::shared_ptr<const std::vector<Controller>> controllers;
};

}  // namespace umwelt::host
