// SPDX-License-Identifier: Apache-2.0
// Text of the machine's files to structs. Pure; every function takes any bytes without failing
// worse than with EINVAL.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "host/facts.h"

namespace umwelt::host {

Result<Cpuinfo> parse_cpuinfo(std::string_view text);
Result<Meminfo> parse_meminfo(std::string_view text);
Result<Meminfo> parse_node_meminfo(std::string_view text);  // "Node 0 MemTotal: ..."
Result<Stat> parse_stat(std::string_view text);
Result<std::vector<Swap>> parse_swaps(std::string_view text);
Result<Uptime> parse_uptime(std::string_view text);
Result<Loadavg> parse_loadavg(std::string_view text);

Result<Vmstat> parse_vmstat(std::string_view text);
Result<std::vector<Disk>> parse_diskstats(std::string_view text);
Result<std::vector<Partition>> parse_partitions(std::string_view text);
Result<PerCpuTable> parse_per_cpu_table(std::string_view text);  // interrupts, softirqs
Result<Schedstat> parse_schedstat(std::string_view text);
Result<std::vector<Zone>> parse_zoneinfo(std::string_view text);
Result<std::vector<Buddy>> parse_buddyinfo(std::string_view text);
Result<Slabinfo> parse_slabinfo(std::string_view text);
Result<std::vector<Controller>> parse_cgroups(std::string_view text);

}  // namespace umwelt::host
