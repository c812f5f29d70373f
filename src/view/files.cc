// SPDX-License-Identifier: Apache-2.0
#include "view/files.h"

#include <algorithm>

#include "view/sys_cpu.h"
#include "view/sys_node.h"

namespace umwelt::view {
namespace {

constexpr auto kConfig = Connection::kConfig;
constexpr auto kLive = Connection::kLive;
constexpr auto kPressure = Connection::kPressure;

constexpr File kFiles[] = {
    {"proc/buddyinfo", 0444, kLive, kNeedMemory | kNeedZones, render_buddyinfo},
    {"proc/cgroups", 0444, kLive, kNeedControllers, render_cgroups},
    {"proc/cpuinfo", 0444, kConfig, 0, render_cpuinfo},
    {"proc/diskstats", 0444, kLive, kNeedDiskstats, render_diskstats},
    {"proc/interrupts", 0444, kLive, kNeedInterrupts, render_interrupts},
    {"proc/loadavg", 0444, kLive, kNeedLoad, render_loadavg},
    {"proc/meminfo", 0444, kLive, kNeedMemory | kNeedHugePages, render_meminfo},
    {"proc/pagetypeinfo", 0400, kConfig, 0, render_pagetypeinfo},
    {"proc/partitions", 0444, kLive, kNeedPartitions, render_partitions},
    {"proc/pressure/cpu", 0666, kPressure, kNeedPressure, render_pressure_cpu},
    {"proc/pressure/io", 0666, kPressure, kNeedPressure, render_pressure_io},
    {"proc/pressure/irq", 0666, kPressure, kNeedPressure, render_pressure_irq},
    {"proc/pressure/memory", 0666, kPressure, kNeedPressure, render_pressure_memory},
    {"proc/schedstat", 0444, kLive, kNeedCpuTime | kNeedUptime | kNeedSchedstat, render_schedstat},
    {"proc/slabinfo", 0400, kLive, kNeedSlabinfo, render_slabinfo},
    {"proc/softirqs", 0444, kLive, kNeedSoftirqs, render_softirqs},
    {"proc/stat", 0444, kLive, kNeedCpuTime | kNeedTasks | kNeedHostStat, render_stat},
    {"proc/swaps", 0444, kLive, kNeedMemory | kNeedSwaps, render_swaps},
    {"proc/uptime", 0444, kLive, kNeedCpuTime | kNeedUptime, render_uptime},
    {"proc/vmstat", 0444, kLive, kNeedMemory | kNeedVmstat, render_vmstat},
    {"proc/zoneinfo", 0444, kLive, kNeedMemory | kNeedZones, render_zoneinfo},
    {"run/container_info", 0444, kConfig, kNeedLimits | kNeedMemory, render_container_info},
    {"run/container_info.json", 0444, kConfig, kNeedLimits | kNeedMemory,
     render_container_info_json},
    {"sys/devices/system/cpu/enabled", 0444, kConfig, 0, render_cpu_enabled},
    {"sys/devices/system/cpu/isolated", 0444, kConfig, 0, render_cpu_isolated},
    {"sys/devices/system/cpu/kernel_max", 0444, kConfig, 0, render_cpu_kernel_max},
    {"sys/devices/system/cpu/offline", 0444, kConfig, 0, render_cpu_offline},
    {"sys/devices/system/cpu/online", 0444, kConfig, 0, render_cpu_online},
    {"sys/devices/system/cpu/possible", 0444, kConfig, 0, render_cpu_possible},
    {"sys/devices/system/cpu/present", 0444, kConfig, 0, render_cpu_present},
    {"sys/devices/system/node/has_cpu", 0444, kConfig, 0, render_node_has_cpu},
    {"sys/devices/system/node/has_generic_initiator", 0444, kConfig, 0,
     render_node_has_generic_initiator},
    {"sys/devices/system/node/has_memory", 0444, kConfig, 0, render_node_has_memory},
    {"sys/devices/system/node/has_normal_memory", 0444, kConfig, 0, render_node_has_normal_memory},
    {"sys/devices/system/node/online", 0444, kConfig, 0, render_node_online},
    {"sys/devices/system/node/possible", 0444, kConfig, 0, render_node_possible},
    // The container's cgroup, as it is mounted in there: v2, and v1's cpuset hierarchy.
    {"sys/fs/cgroup/cpuset.cpus", 0444, kConfig, 0, render_cpu_online},
    {"sys/fs/cgroup/cpuset.cpus.effective", 0444, kConfig, 0, render_cpu_online},
    {"sys/fs/cgroup/cpuset/cpuset.cpus", 0444, kConfig, 0, render_cpu_online},
    {"sys/fs/cgroup/cpuset/cpuset.effective_cpus", 0444, kConfig, 0, render_cpu_online},
};

}  // namespace

std::span<const File> files() { return kFiles; }

const File* find_file(std::string_view path) {
  const auto found = std::find_if(std::begin(kFiles), std::end(kFiles),
                                  [&](const File& file) { return file.path == path; });
  return found == std::end(kFiles) ? nullptr : found;
}

}  // namespace umwelt::view
