// SPDX-License-Identifier: Apache-2.0
#include "view/resources.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "make.h"

namespace umwelt::view {
namespace {

Cpus choose(std::string_view cpus, std::optional<cgroup::Bandwidth> bandwidth, Policy policy = {}) {
  cgroup::Limits limits;
  limits.cpus = *CpuSet::parse(cpus);
  limits.bandwidth = bandwidth;
  return choose_cpus(*make_cpus(8, 4), limits, policy);
}

unsigned count(std::uint64_t quota_us, CpuPolicy policy, std::uint64_t period_us = 100000) {
  return choose("0-7", cgroup::Bandwidth{quota_us, period_us}, {policy, {}, {}, {}}).count();
}

TEST(ChooseCpus, QuotaRoundsByPolicy) {
  EXPECT_EQ(count(50000, CpuPolicy::kCeil), 1U);
  EXPECT_EQ(count(100000, CpuPolicy::kCeil), 1U);
  EXPECT_EQ(count(100001, CpuPolicy::kCeil), 2U);
  EXPECT_EQ(count(250000, CpuPolicy::kCeil), 3U);
  EXPECT_EQ(count(250000, CpuPolicy::kFloor), 2U);
  EXPECT_EQ(count(50000, CpuPolicy::kFloor), 1U);
  EXPECT_EQ(count(0, CpuPolicy::kCeil), 1U);
  EXPECT_EQ(count(50000, CpuPolicy::kCpuset), 8U);
  EXPECT_EQ(count(900000, CpuPolicy::kCeil), 8U);
  EXPECT_EQ(count(~0ULL, CpuPolicy::kCeil, 1), 8U);
  EXPECT_EQ(count(100000, CpuPolicy::kCeil, 0), 8U);
}

TEST(ChooseCpus, HostIdsAreThoseOfAKernelWithTheOthersOffline) {
  const Cpus cpus = choose("1,4-5", std::nullopt);
  EXPECT_EQ(cpus.online.list(), "1,4-5");
  EXPECT_EQ(cpus.possible.list(), "0-15");
  EXPECT_EQ(cpus.present.list(), "0-7");
  EXPECT_EQ(cpus.offline.list(), "0,2-3,6-15");
  EXPECT_EQ(cpus.kernel_max, 8191U);
  EXPECT_EQ(cpus.by_id(4)->physical, 4U);
  EXPECT_EQ(cpus.by_id(0), nullptr);
  EXPECT_EQ(cpus.by_id(9), nullptr);
  EXPECT_EQ(cpus.translate(*CpuSet::parse("4-7")).list(), "4-5");
}

TEST(ChooseCpus, DenseIdsAreThoseOfASmallMachine) {
  const Cpus cpus = choose("1,4-5", std::nullopt, {{}, CpuIds::kDense, {}, {}});
  EXPECT_EQ(cpus.online.list(), "0-2");
  EXPECT_EQ(cpus.possible.list(), "0-2");
  EXPECT_EQ(cpus.present.list(), "0-2");
  EXPECT_EQ(cpus.enabled.list(), "0-2");
  EXPECT_EQ(cpus.offline.list(), "");
  EXPECT_EQ(cpus.by_id(2)->physical, 5U);
  EXPECT_EQ(cpus.translate(*CpuSet::parse("4-7")).list(), "1-2");
}

TEST(ChooseCpus, AutoIsDenseWhereAffinityIsVirtualised) {
  EXPECT_FALSE(choose("1", std::nullopt).dense);
  EXPECT_TRUE(choose("1", std::nullopt, {{}, CpuIds::kAuto, {}, true}).dense);
  EXPECT_FALSE(choose("1", std::nullopt, {{}, CpuIds::kHost, {}, true}).dense);
}

TEST(ChooseCpus, QuotaShowsTheFirstOfTheAllowed) {
  const Cpus cpus = choose("1,4-5", cgroup::Bandwidth{150000, 100000});
  EXPECT_EQ(cpus.online.list(), "1,4");
  EXPECT_EQ(cpus.allowed.list(), "1,4-5");
}

TEST(ChooseCpus, ABrokenCpusetShowsTheHostsCpus) {
  EXPECT_EQ(choose("", std::nullopt).online.list(), "0-7");
  EXPECT_EQ(choose("8-9", std::nullopt).online.list(), "0-7");
  EXPECT_EQ(choose_cpus(host::Cpus(), cgroup::Limits(), Policy()).count(), 1U);
}

TEST(Memory, TotalIsTheLimitAndTheLimitingCgroupsUsageCounts) {
  cgroup::State state = make_state();
  state.limits.memory_max_bytes = 256 * kMiB;
  state.memory->usage_bytes = 10 * kMiB;
  state.memory->limit_usage_bytes = 200 * kMiB;
  state.memory->limit_inactive_file = 20 * kMiB;
  state.memory->limit_active_file = 30 * kMiB;
  state.memory->limit_slab_reclaimable = 5 * kMiB;
  const Memory memory = resources(make_host(), state, make_identity(), {}).memory;
  EXPECT_TRUE(memory.limited);
  EXPECT_EQ(memory.total, 256 * kMiB);
  EXPECT_EQ(memory.free, 56 * kMiB);
  EXPECT_EQ(memory.available, 111 * kMiB);
}

TEST(Memory, NoMoreIsThereThanTheAncestorsLeave) {
  cgroup::State state = make_state();
  state.limits.memory_max_bytes = 256 * kMiB;
  state.memory->limit_usage_bytes = 100 * kMiB;
  state.memory->limit_inactive_file = 20 * kMiB;
  for (const std::uint64_t left_mib : {300, 170, 60}) {
    state.memory->above_available_bytes = left_mib * kMiB;
    const Memory memory = resources(make_host(), state, make_identity(), {}).memory;
    EXPECT_EQ(memory.total, 256 * kMiB);
    EXPECT_EQ(memory.available, std::min<std::uint64_t>(left_mib, 176) * kMiB);
    EXPECT_EQ(memory.free, std::min<std::uint64_t>(left_mib, 156) * kMiB);
  }
}

TEST(Memory, ALimitJustLoweredBelowTheUsage) {
  cgroup::State state = make_state();
  state.limits.memory_max_bytes = 16 * kMiB;
  state.limits.swap_max_bytes = 0;
  state.memory->limit_usage_bytes = 200 * kMiB;
  state.memory->limit_active_file = 190 * kMiB;
  state.memory->swap_usage_bytes = state.memory->limit_swap_usage_bytes = kMiB;
  const Memory memory = resources(make_host(), state, make_identity(), {}).memory;
  EXPECT_EQ(memory.free, 0U);
  EXPECT_EQ(memory.available, 6 * kMiB);
  state.memory->limit_active_file = ~0ULL;
  EXPECT_EQ(resources(make_host(), state, make_identity(), {}).memory.available, 16 * kMiB);
  EXPECT_EQ(memory.swap_total, 0U);
  EXPECT_EQ(memory.swap_free, 0U);
}

TEST(Memory, ALimitThatIsNotBelowTheHostsMemoryIsNone) {
  cgroup::State state = make_state();
  state.limits.memory_max_bytes = 16384 * kMiB;
  const Resources r = resources(make_host(), state, make_identity(), {});
  EXPECT_FALSE(r.memory.limited);
  EXPECT_FALSE(r.memory_max);
  EXPECT_EQ(r.memory.free, 9000 * kMiB);
  EXPECT_EQ(r.memory.swap_free, 1999 * kMiB);
}

TEST(Resources, TheHostItselfHasNoLimits) {
  cgroup::State state = make_state("1");
  state.limits.memory_max_bytes = kMiB;
  state.limits.bandwidth = cgroup::Bandwidth{1000, 100000};
  Identity identity = make_identity();
  identity.limited = false;
  identity.policy.cpu_ids = CpuIds::kDense;
  const Resources r = resources(make_host(), state, identity, {});
  EXPECT_EQ(r.cpus.count(), 8U);
  EXPECT_EQ(r.cpus.possible.list(), "0-15");
  EXPECT_FALSE(r.memory.limited);
  EXPECT_EQ(r.uptime.uptime_ns, 5000 * kSecond);
  EXPECT_EQ(r.load.last_pid, 4711U);
}

// Whatever the kernel says, and however its counts disagree.
TEST(Memory, InvariantsHoldForAnyInput) {
  std::mt19937_64 random(7);
  const auto any = [&] { return random() >> (random() % 64); };
  for (int round = 0; round < 3000; ++round) {
    cgroup::State state = make_state();
    state.limits.memory_max_bytes = any();
    state.limits.swap_max_bytes = any();
    cgroup::Memory& m = *state.memory;
    m.usage_bytes = any(), m.limit_swap_usage_bytes = any(), m.limit_usage_bytes = any();
    m.limit_inactive_file = any(), m.limit_active_file = any(), m.limit_slab_reclaimable = any();
    m.above_available_bytes = any();
    for (auto* value :
         {&m.stat.anon, &m.stat.file, &m.stat.file_mapped, &m.stat.file_dirty, &m.stat.shmem,
          &m.stat.inactive_anon, &m.stat.active_anon, &m.stat.inactive_file, &m.stat.active_file,
          &m.stat.unevictable, &m.stat.anon_thp, &m.stat.swapcached})
      *value = any();
    m.stat.slab_reclaimable = any();
    m.stat.slab_unreclaimable = any();
    const std::string text = render_meminfo(resources(make_host(), state, make_identity(), {}));
    const auto get = [&](const char* key) { return meminfo_value(text, key).value(); };
    ASSERT_LE(get("MemFree"), get("MemAvailable")) << text;
    ASSERT_LE(get("MemAvailable"), get("MemTotal")) << text;
    ASSERT_LE(get("SwapFree"), get("SwapTotal")) << text;
    ASSERT_LE(get("MemTotal"), 16384 * 1024U) << text;
    if (*state.limits.memory_max_bytes >= 16384 * kMiB) continue;
    // procps up to 4.0.0: used = total - free - buffers - cached - reclaimable
    ASSERT_LE(get("MemFree") + get("Buffers") + get("Cached") + get("SReclaimable"),
              get("MemTotal"))
        << text;
    ASSERT_LE(get("Slab"), get("MemTotal")) << text;
    ASSERT_LE(get("Active") + get("Inactive"), get("MemTotal")) << text;
    ASSERT_EQ(get("Active"), get("Active(anon)") + get("Active(file)")) << text;
    ASSERT_EQ(get("Slab"), get("SReclaimable") + get("SUnreclaim")) << text;
    ASSERT_LE(get("Shmem"), get("Cached")) << text;
    ASSERT_LE(get("Mapped"), get("MemTotal")) << text;
  }
}

}  // namespace
}  // namespace umwelt::view
