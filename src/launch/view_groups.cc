// SPDX-License-Identifier: Apache-2.0
#include "launch/view_groups.h"

#include <algorithm>

namespace umwelt::launch {
namespace {

constexpr auto kConfig = view::Connection::kConfig, kLive = view::Connection::kLive,
               kPressure = view::Connection::kPressure;
constexpr bool kFile = false, kDirectory = true;

constexpr KnownView kViews[] = {
    {"cpu", "proc/cpuinfo", kConfig, kFile},
    {"cpu", "proc/interrupts", kLive, kFile},
    {"cpu", "proc/schedstat", kLive, kFile},
    {"cpu", "proc/softirqs", kLive, kFile},
    {"cpu", "proc/stat", kLive, kFile},
    {"cpu", "sys/devices/system/cpu", kConfig, kDirectory},
    {"cpu", "sys/devices/system/node", kConfig, kDirectory},
    {"cpu", "sys/fs/cgroup/cpuset.cpus", kConfig, kFile},
    {"cpu", "sys/fs/cgroup/cpuset.cpus.effective", kConfig, kFile},
    {"cpu", "sys/fs/cgroup/cpuset/cpuset.cpus", kConfig, kFile},
    {"cpu", "sys/fs/cgroup/cpuset/cpuset.effective_cpus", kConfig, kFile},
    {"memory", "proc/buddyinfo", kLive, kFile},
    {"memory", "proc/meminfo", kLive, kFile},
    {"memory", "proc/pagetypeinfo", kConfig, kFile},
    {"memory", "proc/slabinfo", kLive, kFile},
    {"memory", "proc/swaps", kLive, kFile},
    {"memory", "proc/vmstat", kLive, kFile},
    {"memory", "proc/zoneinfo", kLive, kFile},
    {"memory", "sys/devices/system/memory", kConfig, kDirectory},
    {"memory", "sys/kernel/mm/hugepages", kConfig, kDirectory},
    {"load", "proc/loadavg", kLive, kFile},
    {"load", "proc/pressure/cpu", kPressure, kFile},
    {"load", "proc/pressure/io", kPressure, kFile},
    {"load", "proc/pressure/irq", kPressure, kFile},
    {"load", "proc/pressure/memory", kPressure, kFile},
    {"uptime", "proc/uptime", kLive, kFile},
    {"io", "proc/diskstats", kLive, kFile},
    {"io", "proc/partitions", kLive, kFile},
    {"info", "proc/cgroups", kLive, kFile},
    {"info", "run/container_info", kConfig, kFile},
    {"info", "run/container_info.json", kConfig, kFile},
};

}  // namespace

std::span<const KnownView> known_views() { return kViews; }

std::vector<std::string> view_groups() {
  std::vector<std::string> names;
  for (const KnownView& view : kViews)
    if (std::find(names.begin(), names.end(), view.group) == names.end())
      names.emplace_back(view.group);
  return names;
}

}  // namespace umwelt::launch
