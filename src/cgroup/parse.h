// SPDX-License-Identifier: Apache-2.0
// Text of cgroup control files to values. Pure; every function takes any bytes without failing
// worse than with EINVAL. In an optional value nullopt is "no limit".
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cgroup/state.h"

namespace umwelt::cgroup {

// v2 memory.max, memory.swap.max, pids.max (also v1): a number or "max".
Result<std::optional<std::uint64_t>> parse_max(std::string_view text);

// v1 memory.limit_in_bytes: an unlimited counter is PAGE_COUNTER_MAX pages, which differs with the
// page size; everything from 2^62 counts as such.
Result<std::optional<std::uint64_t>> parse_limit_in_bytes(std::string_view text);

// v2 cpu.max: "50000 100000" or "max 100000".
Result<std::optional<Bandwidth>> parse_cpu_max(std::string_view text);
// v1 cpu.cfs_quota_us (-1: none) and cpu.cfs_period_us.
Result<std::optional<Bandwidth>> parse_cfs(std::string_view quota, std::string_view period);

// v2 memory.stat (mm/memcontrol.c).
Result<MemoryStat> parse_memory_stat_v2(std::string_view text);

// v1 memory.stat, the total_ lines (mm/memcontrol-v1.c). `swap_bytes` is nullopt without swap
// accounting.
struct MemoryStatV1 {
  MemoryStat stat;
  std::optional<std::uint64_t> swap_bytes;
};
Result<MemoryStatV1> parse_memory_stat_v1(std::string_view text);

// v1's name of a line of cgroup2's memory.stat; "" where it has none.
std::string_view memory_stat_key_v1(std::string_view v2_key);

// Every line of memory.stat.
MemoryEvents parse_memory_events(std::string_view text, bool v2);

// v2 cpu.stat. `nice_us` is a part of `user_us`.
struct CpuStat {
  std::uint64_t usage_us = 0, user_us = 0, system_us = 0, nice_us = 0, throttled_us = 0;
};
Result<CpuStat> parse_cpu_stat(std::string_view text);

// v1 cpu.stat: time that a quota held the group, in ns.
Result<std::uint64_t> parse_throttled_time_v1(std::string_view text);

// v1 cpuacct.usage_percpu: ns of each possible CPU, in ascending order.
Result<std::vector<std::uint64_t>> parse_usage_percpu(std::string_view text);

// v1 cpuacct.stat, USER_HZ ticks.
struct CpuacctStat {
  std::uint64_t user = 0, system = 0;
};
Result<CpuacctStat> parse_cpuacct_stat(std::string_view text);

// The third field of /proc/PID/stat: 'R', 'S', 'D', ... The name before it may hold anything.
Result<char> parse_task_state(std::string_view stat);

// v2 io.stat, ascending by device.
Result<std::vector<DeviceIo>> parse_io_stat(std::string_view text);
// v1 blkio.throttle.io_service_bytes_recursive and io_serviced_recursive, ascending by device.
Result<std::vector<DeviceIo>> parse_blkio(std::string_view bytes, std::string_view serviced);

// cpu.pressure and the like: the "some" line's total, in us; nullopt without one.
std::optional<std::uint64_t> parse_pressure_some(std::string_view text);

// "hugepages-2048kB" to bytes; nullopt for other names.
std::optional<std::uint64_t> parse_huge_page_directory(std::string_view name);

// cgroup.threads, tasks, cgroup.procs: one id a line. Lines that are none are passed over.
std::vector<std::uint32_t> parse_ids(std::string_view text);

}  // namespace umwelt::cgroup
