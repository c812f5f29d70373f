// SPDX-License-Identifier: Apache-2.0
// The table of everything that is served: path, mode, which parts it is made of, and the pure
// function that makes its text. The filesystem, the docs lint and the golden tests read it; adding
// a file is adding a row.
#pragma once

#include <sys/types.h>

#include <span>
#include <string>
#include <string_view>

#include "view/resources.h"

namespace umwelt::view {

enum class Connection : unsigned {
  kConfig,    // changes only with limits or CPUs: served from the kernel's page cache
  kLive,      // moves by itself: rendered at every read from offset 0
  kPressure,  // live, and takes triggers: a mount that can be written to
};

// Which parts of Resources a file shows (bits). kCpus is always there.
enum Need : unsigned {
  kNeedMemory = 1U << 0,
  kNeedCpuTime = 1U << 1,
  kNeedLoad = 1U << 2,
  kNeedUptime = 1U << 3,
  kNeedSwaps = 1U << 4,
  kNeedHostStat = 1U << 5,
  kNeedTasks = 1U << 6,
  kNeedLimits = 1U << 7,  // nothing beyond the limits
  kNeedDiskstats = 1U << 8,
  kNeedPartitions = 1U << 9,
  kNeedVmstat = 1U << 10,
  kNeedInterrupts = 1U << 11,
  kNeedSoftirqs = 1U << 12,
  kNeedSchedstat = 1U << 13,
  kNeedZones = 1U << 14,
  kNeedSlabinfo = 1U << 15,
  kNeedControllers = 1U << 18,
  kNeedHugePages = 1U << 16,
  kNeedPressure = 1U << 17,
};

struct File {
  std::string_view path;  // relative to the container's tree: "proc/meminfo"
  mode_t mode;            // the kernel's own: 0444; only what takes triggers can be written
  Connection connection;
  unsigned needs;
  std::string (*render)(const Resources&);
};
std::span<const File> files();

// The file itself when `path` is in the table, else nullptr.
const File* find_file(std::string_view path);

std::string render_cpuinfo(const Resources& r);
std::string render_meminfo(const Resources& r);
std::string render_pressure_cpu(const Resources& r);
std::string render_pressure_io(const Resources& r);
std::string render_pressure_irq(const Resources& r);
std::string render_pressure_memory(const Resources& r);
std::string render_stat(const Resources& r);
std::string render_uptime(const Resources& r);
std::string render_loadavg(const Resources& r);
std::string render_swaps(const Resources& r);
std::string render_diskstats(const Resources& r);
std::string render_partitions(const Resources& r);
std::string render_vmstat(const Resources& r);
std::string render_interrupts(const Resources& r);
std::string render_softirqs(const Resources& r);
std::string render_schedstat(const Resources& r);
std::string render_zoneinfo(const Resources& r);
std::string render_buddyinfo(const Resources& r);
std::string render_pagetypeinfo(const Resources& r);
std::string render_slabinfo(const Resources& r);
std::string render_cgroups(const Resources& r);
std::string render_container_info(const Resources& r);
std::string render_container_info_json(const Resources& r);

}  // namespace umwelt::view
