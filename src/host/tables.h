// SPDX-License-Identifier: Apache-2.0
// Files of /proc that are tables: plain structs, no I/O. What a container is shown of a row is
// decided in view/; here rows are as the kernel wrote them.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace umwelt::host {

// /proc/vmstat: counters in the kernel's order. Source: mm/vmstat.c.
using Vmstat = std::vector<std::pair<std::string, std::uint64_t>>;

// One line of /proc/diskstats. `counts` are the fields of Documentation/admin-guide/iostats.rst
// from "reads completed" on: 11, since Linux 4.18 15, since 5.5 17.
struct Disk {
  unsigned major = 0, minor = 0;
  std::string name;
  std::vector<std::uint64_t> counts;
};

struct Partition {  // one line of /proc/partitions
  unsigned major = 0, minor = 0;
  std::uint64_t blocks_kib = 0;
  std::string name;
};

// /proc/interrupts and /proc/softirqs: a column for each CPU. The file is `corner` and "CPU%-8d"
// of each CPU, then for each row `label`, " %10llu" of each count and `rest`: byte for byte.
struct PerCpuTable {
  struct Row {
    std::string label;                  // "  1:", "NMI:"; with the blanks before it
    std::vector<std::uint64_t> counts;  // one a CPU; a row that is no CPU's ("ERR") has one
    std::string rest;                   // "   IO-APIC   1-edge      i8042"
  };
  std::string corner;          // the blanks before the first CPU
  std::vector<unsigned> cpus;  // ids of the columns: interrupts the online, softirqs the possible
  std::vector<Row> rows;
};

// /proc/schedstat. Source: kernel/sched/stats.c.
struct Schedstat {
  struct Domain {
    std::string name;  // "domain0", since version 17 "domain0 MC"
    std::string mask;  // of CPUs, hexadecimal (CpuSet::mask())
    std::string rest;  // the counters, with the blank before them
  };
  struct Cpu {
    unsigned id = 0;
    std::string rest;  // the counters, with the blank before them
    std::vector<Domain> domains;
  };
  std::string header;  // the lines before the first CPU: version, timestamp
  std::vector<Cpu> cpus;
};

struct Zone {  // one zone of /proc/zoneinfo
  unsigned node = 0;
  std::string name;                // "Normal"
  std::vector<std::string> lines;  // below its "Node 0, zone   Normal"
};

struct Buddy {  // one line of /proc/buddyinfo
  unsigned node = 0;
  std::string zone;
  std::vector<std::uint64_t> free;  // free areas of 2^index pages
};

// /proc/slabinfo.
struct Slabinfo {
  std::string heading;  // the version and the names of the columns
  std::string text;     // the whole file
};

struct Controller {  // one line of /proc/cgroups
  std::string name;
  std::uint64_t hierarchy = 0;  // 0: cgroup2 or none
  std::uint64_t cgroups = 0;
  bool enabled = true;
};

}  // namespace umwelt::host
