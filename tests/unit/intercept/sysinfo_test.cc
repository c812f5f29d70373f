// SPDX-License-Identifier: Apache-2.0
#include "intercept/sysinfo.h"

#include <gtest/gtest.h>
#include <linux/sysinfo.h>

#include <cstring>

#include "unit/view/make.h"

namespace umwelt::intercept {
namespace {

using view::kMiB;

view::Resources container(std::uint64_t memory_max) {
  cgroup::State state = view::make_state();
  state.limits.memory_max_bytes = memory_max;
  state.memory->usage_bytes = state.memory->limit_usage_bytes = 100 * kMiB;
  state.memory->stat.file = 50 * kMiB;
  state.memory->stat.shmem = 7 * kMiB;
  view::LoadAccounting load;
  load.load1 = 1.5;
  load.load5 = 0.25;
  load.total = 12;
  view::Moment moment;
  moment.boottime_ns = 1061 * view::kSecond + 1;
  moment.load = &load;
  return view::resources(view::make_host(), state, view::make_identity(), moment);
}

struct sysinfo wide(const view::Resources& r) {
  const std::string bytes = render_sysinfo(r, Layout::k64);
  struct sysinfo info {};
  EXPECT_EQ(bytes.size(), sizeof info);
  std::memcpy(&info, bytes.data(), sizeof info);
  return info;
}

std::uint32_t word(const std::string& bytes, unsigned n) {
  std::uint32_t value = 0;
  std::memcpy(&value, bytes.data() + n * sizeof value, sizeof value);
  return value;
}

TEST(Sysinfo, SaysWhatTheFilesSay) {
  const view::Resources r = container(256 * kMiB);
  const struct sysinfo info = wide(r);
  const std::string meminfo = view::render_meminfo(r);
  EXPECT_EQ(info.mem_unit, 1U);
  EXPECT_EQ(info.totalram, 256 * kMiB);
  EXPECT_EQ(info.totalram / 1024, view::meminfo_value(meminfo, "MemTotal"));
  EXPECT_EQ(info.freeram / 1024, view::meminfo_value(meminfo, "MemFree"));
  EXPECT_EQ(info.sharedram / 1024, view::meminfo_value(meminfo, "Shmem"));
  EXPECT_EQ(info.bufferram / 1024, view::meminfo_value(meminfo, "Buffers"));
  EXPECT_EQ(info.totalswap / 1024, view::meminfo_value(meminfo, "SwapTotal"));
  EXPECT_EQ(info.freeswap / 1024, view::meminfo_value(meminfo, "SwapFree"));
  EXPECT_EQ(info.uptime, 62);  // rounded up, as the kernel does
  EXPECT_EQ(info.loads[0], 3U << 15);
  EXPECT_EQ(info.loads[1], 1U << 14);
  EXPECT_EQ(info.loads[2], 0U);
  EXPECT_EQ(info.procs, 12);
}

TEST(Sysinfo, AnUnlimitedContainerHasTheHostsBuffers) {
  const view::Resources r = container(1ULL << 62);
  EXPECT_EQ(wide(r).totalram, 16384 * kMiB);
  EXPECT_EQ(wide(r).bufferram, 111 * kMiB);
  EXPECT_EQ(wide(r).sharedram, 777 * kMiB);
}

TEST(Sysinfo, FitsIn32Bits) {
  const std::string small = render_sysinfo(container(256 * kMiB), Layout::k32);
  ASSERT_EQ(small.size(), 64U);
  EXPECT_EQ(word(small, 0), 62U);
  EXPECT_EQ(word(small, 1), 3U << 15);
  EXPECT_EQ(word(small, 4), 256 * kMiB);
  EXPECT_EQ(word(small, 10) & 0xffff, 12U);
  EXPECT_EQ(word(small, 13), 1U);
}

TEST(Sysinfo, CountsInPagesWhereBytesDoNotFit) {
  const std::string large = render_sysinfo(container(8192 * kMiB), Layout::k32);
  EXPECT_EQ(word(large, 13), 4096U);
  EXPECT_EQ(word(large, 4), 8192 * kMiB / 4096);
  EXPECT_EQ(word(large, 5), (8192 - 100) * kMiB / 4096);
}

}  // namespace
}  // namespace umwelt::intercept
