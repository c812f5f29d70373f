// SPDX-License-Identifier: Apache-2.0
#include "view/accounting.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "make.h"

namespace umwelt::view {
namespace {

constexpr std::uint64_t kTick = kSecond / 100;

CpuSample sample(std::uint64_t boottime_ns, std::uint64_t user_ns, std::uint64_t system_ns,
                 std::vector<std::pair<unsigned, unsigned>> shown) {
  CpuSample s;
  s.boottime_ns = boottime_ns;
  s.used.user_ns = user_ns;
  s.used.system_ns = system_ns;
  s.shown = std::move(shown);
  return s;
}

std::uint64_t busy(const ShownCpuTime& t) { return t.user_ns + t.nice_ns + t.system_ns; }
std::uint64_t all(const ShownCpuTime& t) { return busy(t) + t.idle_ns + t.steal_ns; }

TEST(CpuAccounting, WithoutPerCpuCountsTimeIsSpreadEvenly) {
  const CpuAccounting state =
      next({}, sample(11 * kSecond, 3 * kSecond, 1 * kSecond, {{0, 4}, {1, 5}}), kSecond);
  for (unsigned id : {0U, 1U}) {
    EXPECT_EQ(state.by_id.at(id).user_ns, 3 * kSecond / 2);
    EXPECT_EQ(state.by_id.at(id).system_ns, kSecond / 2);
    EXPECT_EQ(state.by_id.at(id).idle_ns, 8 * kSecond);
  }
}

TEST(CpuAccounting, ACgroupThatIsOlderThanItsContainer) {
  CpuSample s = sample(10030 * kSecond, 2000 * kSecond, 0, {{0, 0}, {1, 1}});
  s.cpus = 2;
  CpuAccounting state = next({}, s, 10000 * kSecond);
  EXPECT_EQ(busy(state.by_id.at(0)) + busy(state.by_id.at(1)), 0U);
  EXPECT_EQ(state.by_id.at(0).idle_ns + state.by_id.at(1).idle_ns, 60 * kSecond);
  EXPECT_EQ(state.before.user_ns, 2000 * kSecond);
  s.boottime_ns += kSecond;
  s.used.user_ns += kSecond;
  state = next(state, s, 10000 * kSecond);
  EXPECT_EQ(busy(state.by_id.at(0)) + busy(state.by_id.at(1)), kSecond);
  // What there was time for is its own; the clock and the counters are not read in one instant.
  s = sample(10030 * kSecond, 61 * kSecond, 0, {{0, 0}, {1, 1}});
  s.cpus = 2;
  state = next({}, s, 10000 * kSecond);
  EXPECT_EQ(busy(state.by_id.at(0)) + busy(state.by_id.at(1)), 60 * kSecond);
  EXPECT_EQ(state.before.user_ns, 0U);
}

TEST(IoAccounting, WhatIsLostIsKept) {
  IoAccounting state =
      next(IoAccounting{}, {{7, 0, 100, 10, 0, 5, 1, 0}, {8, 0, 1, 0, 0, 1, 0, 0}});
  // A nested cgroup is removed that had read 60; 20 were read since. Device 8:0 is gone.
  state = next(state, {{7, 0, 60, 12, 0, 6, 2, 0}});
  auto shown = shown_io(state);
  ASSERT_EQ(shown.size(), 2U);
  EXPECT_EQ(shown[0].read_bytes, 100U);
  EXPECT_EQ(shown[0].written_bytes, 12U);
  EXPECT_EQ(shown[0].reads, 6U);
  EXPECT_EQ(shown[1].major, 8U);
  EXPECT_EQ(shown[1].read_bytes, 1U);
  state = next(state, {{7, 0, 80, 12, 0, 6, 2, 0}, {8, 0, 3, 0, 0, 2, 0, 0}});
  shown = shown_io(state);
  EXPECT_EQ(shown[0].read_bytes, 120U);
  EXPECT_EQ(shown[1].read_bytes, 4U);
  EXPECT_EQ(shown[1].reads, 3U);
}

TEST(IoAccounting, DevicesThatAreGoneAreForgottenWhenThereAreTooMany) {
  IoAccounting state;
  for (unsigned minor = 0; minor < 1500; ++minor)
    state = next(std::move(state), {{7, minor, 1, 0, 0, 1, 0, 0}});
  EXPECT_LE(state.size(), 1025U);
  EXPECT_EQ(shown_io(state).back().minor, 1499U);
}

TEST(LoadAccounting, ACgroupThatIsOlderThanItsContainer) {
  LoadSample s;
  s.boottime_ns = 10030 * kSecond;
  s.busy_ns = 2000 * kSecond;
  s.before_ns = 2000 * kSecond;
  s.cpus = 2;
  for (const std::optional<std::uint64_t> waited_ns : {std::optional(900 * kSecond), {}}) {
    s.waited_ns = waited_ns;
    EXPECT_EQ(next(LoadAccounting{}, s, 10000 * kSecond).load1, 0.0);
  }
}

TEST(CpuAccounting, CpuacctPlacesTimeOnThePhysicalCpu) {
  CpuSample s = sample(10 * kSecond, 4 * kSecond, 2 * kSecond, {{0, 4}, {1, 5}});
  s.used.per_cpu = {{0, 0}, {4, 1 * kSecond}, {5, 5 * kSecond}};
  const CpuAccounting state = next({}, s, 0);
  EXPECT_EQ(busy(state.by_id.at(0)), 1 * kSecond);
  EXPECT_EQ(busy(state.by_id.at(1)), 5 * kSecond);
  EXPECT_NEAR(static_cast<double>(state.by_id.at(1).user_ns), 5e9 * 4 / 6, 2);
  EXPECT_EQ(state.by_id.at(0).user_ns + state.by_id.at(1).user_ns, 4 * kSecond);
}

TEST(CpuAccounting, TimeOnCpusThatAreNotShownGoesWhereThereIsRoom) {
  CpuSample s = sample(10 * kSecond, 12 * kSecond, 0, {{4, 4}, {5, 5}});
  s.used.per_cpu = {{4, 9 * kSecond}, {6, 3 * kSecond}};
  const CpuAccounting state = next({}, s, 0);
  EXPECT_EQ(busy(state.by_id.at(4)), 10 * kSecond);
  EXPECT_EQ(busy(state.by_id.at(5)), 2 * kSecond);
}

TEST(CpuAccounting, WhatHasNoRoomIsPlacedLater) {
  CpuAccounting state = next({}, sample(1 * kSecond, 1'300'000'000, 0, {{0, 0}}), 0);
  EXPECT_EQ(busy(state.by_id.at(0)), kSecond);
  EXPECT_EQ(state.pending.user_ns, 300'000'000U);
  state = next(state, sample(2 * kSecond, 1'300'000'000, 0, {{0, 0}}), 0);
  EXPECT_EQ(busy(state.by_id.at(0)), 1'300'000'000U);
  EXPECT_EQ(state.by_id.at(0).idle_ns, 700'000'000U);
}

TEST(CpuAccounting, TimeThatNeverHasRoomIsNotKeptForever) {
  CpuAccounting state;
  for (std::uint64_t s = 1; s <= 100; ++s)
    state = next(state, sample(s * kSecond, s * 2 * kSecond, 0, {{0, 0}}), 0);
  EXPECT_EQ(state.pending.user_ns, kSecond);
}

TEST(CpuAccounting, ThrottledTimeIsStealAsFarAsThereIsRoom) {
  CpuSample s = sample(10 * kSecond, 5 * kSecond, 0, {{0, 0}});
  s.used.throttled_ns = 4 * kSecond;
  CpuAccounting state = next({}, s, 0);
  EXPECT_EQ(state.by_id.at(0).steal_ns, 4 * kSecond);
  EXPECT_EQ(state.by_id.at(0).idle_ns, 1 * kSecond);
  s.boottime_ns = 11 * kSecond;
  s.used.throttled_ns = 100 * kSecond;
  state = next(state, s, 0);
  EXPECT_EQ(state.by_id.at(0).steal_ns, 5 * kSecond);
}

TEST(CpuAccounting, ACgroupThatWasMadeAgainStartsOver) {
  CpuAccounting state = next({}, sample(10 * kSecond, 5 * kSecond, 0, {{0, 0}}), 0);
  state = next(state, sample(11 * kSecond, 0, 0, {{0, 0}}), 0);
  EXPECT_EQ(state.by_id.at(0).user_ns, 5 * kSecond);
  state = next(state, sample(12 * kSecond, kSecond / 2, 0, {{0, 0}}), 0);
  EXPECT_EQ(state.by_id.at(0).user_ns, 5 * kSecond + kSecond / 2);
}

TEST(CpuAccounting, TimeThatIsDividedAnewIsNotWorkedAgain) {
  CpuAccounting state = next({}, sample(20 * kSecond, 9 * kSecond, kSecond, {{0, 0}}), 0);
  state = next(state, sample(30 * kSecond, 5 * kSecond, 7 * kSecond, {{0, 0}}), 0);
  EXPECT_EQ(busy(state.by_id.at(0)), 12 * kSecond);
  EXPECT_EQ(state.by_id.at(0).user_ns, 9 * kSecond);
  EXPECT_EQ(state.pending.system_ns, 0U);
}

TEST(CpuAccounting, AClockThatGoesBackMovesNothing) {
  CpuAccounting state = next({}, sample(10 * kSecond, 5 * kSecond, 0, {{0, 0}}), 0);
  state = next(state, sample(9 * kSecond, 5 * kSecond, 0, {{0, 0}}), 0);
  EXPECT_EQ(all(state.by_id.at(0)), 10 * kSecond);
  state = next(state, sample(11 * kSecond, 5 * kSecond, 0, {{0, 0}}), 0);
  EXPECT_EQ(all(state.by_id.at(0)), 11 * kSecond);
}

TEST(CpuAccounting, ForksOnlyRise) {
  CpuAccounting state;
  CpuSample s = sample(kSecond, 0, 0, {{0, 0}});
  for (std::uint64_t processes : {3, 5, 1, 4}) {
    s.processes = processes;
    state = next(state, s, 0);
  }
  EXPECT_EQ(state.forks, 3U + 2 + 3);
  s.processes.reset();
  EXPECT_EQ(next(state, s, 0).forks, 8U);
}

constexpr std::uint64_t ShownCpuTime::*kColumns[] = {
    &ShownCpuTime::user_ns, &ShownCpuTime::nice_ns, &ShownCpuTime::system_ns,
    &ShownCpuTime::idle_ns, &ShownCpuTime::steal_ns};

// The cpu line.
ShownCpuTime sum_of(const CpuAccounting& state) {
  ShownCpuTime sum;
  for (const auto& [id, time] : state.by_id)
    for (const auto column : kColumns) sum.*column += time.*column;
  return sum;
}

// As /proc/stat shows it: of each CPU in ticks, rounded up.
std::uint64_t idle_ticks(const CpuAccounting& state) {
  std::uint64_t ticks = 0;
  for (const auto& [id, time] : state.by_id) ticks += (time.idle_ns + kTick - 1) / kTick;
  return ticks;
}

TEST(CpuAccounting, IdleTimeOfCpusThatGoDoesNotGoBackWhereItIsRounded) {
  CpuSample s = sample(kSecond, 0, 0, {});
  for (unsigned cpu = 0; cpu < 8; ++cpu) s.shown.emplace_back(cpu, cpu);
  s.used.user_ns = 8 * (kSecond - 501'000'000);  // 50.1 ticks idle on each
  CpuAccounting state = next({}, s, 0);
  EXPECT_EQ(idle_ticks(state), 8U * 51);
  s.boottime_ns += 3'000'000;
  s.used.user_ns += 24'000'000;
  s.shown.resize(2);
  state = next(state, s, 0);
  EXPECT_EQ(idle_ticks(state), 8U * 51);
  // What was rounded is no idle time twice.
  CpuAccounting idle = next({}, sample(kSecond + 1, 0, 0, {{0, 0}, {1, 1}}), 0);
  idle = next(idle, sample(2 * kSecond + 1, 0, 0, {{0, 0}}), 0);
  EXPECT_EQ(idle.by_id.at(0).idle_ns, 3 * kSecond + 2);
}

// Random limits, usages (also more than there is room for), steps of time and cgroups made again.
TEST(CpuAccounting, NoCounterEverGoesBackAndEveryIntervalAddsUp) {
  std::mt19937_64 random(11);
  for (int container = 0; container < 50; ++container) {
    CpuAccounting state;
    CpuSample s;
    s.boottime_ns = 100 * kSecond;
    const bool v1 = random() % 2 == 0;
    for (int step = 0; step < 60; ++step) {
      const std::uint64_t elapsed = random() % (2 * kSecond);
      s.boottime_ns += elapsed;
      if (random() % 50 == 0) s.used = {};
      s.used.user_ns += random() % (4 * kSecond);
      s.used.nice_ns += random() % kSecond;
      s.used.system_ns += random() % kSecond;
      s.used.throttled_ns += random() % kSecond;
      if (v1) {
        s.used.per_cpu.resize(8);
        for (unsigned cpu = 0; cpu < 8; ++cpu) {
          s.used.per_cpu[cpu].first = cpu;
          s.used.per_cpu[cpu].second += random() % kSecond;
        }
      }
      if (step % 3 == 0) {
        s.shown.clear();
        for (unsigned cpu = 0; cpu < 8; ++cpu)
          if (random() % 2 == 0) s.shown.emplace_back(cpu, cpu);
        if (s.shown.empty()) s.shown.emplace_back(3, 3);
      }
      const CpuAccounting before = state;
      state = next(state, s, 100 * kSecond);
      ASSERT_EQ(state.by_id.size(), s.shown.size());
      for (const auto& [id, physical] : s.shown) {
        const auto was = before.by_id.find(id);
        if (was == before.by_id.end()) continue;
        for (const auto column : kColumns)
          ASSERT_GE(state.by_id.at(id).*column, was->second.*column);
      }
      const ShownCpuTime sum = sum_of(state), sum_before = sum_of(before);
      for (const auto column : kColumns) ASSERT_GE(sum.*column, sum_before.*column);
      ASSERT_GE(idle_ticks(state), idle_ticks(before));
      std::uint64_t gone = 0;
      for (const auto& [id, time] : before.by_id) gone += state.by_id.contains(id) ? 0 : 1;
      ASSERT_GE(all(sum) - all(sum_before), elapsed * s.shown.size());
      ASSERT_LE(all(sum) - all(sum_before), elapsed * s.shown.size() + gone * kTick);
    }
  }
}

// A cpuset that moves between different CPUs costs nothing.
TEST(CpuAccounting, ACpuThatComesTakesOverFromTheOneThatWent) {
  CpuAccounting state;
  for (std::uint64_t s = 1; s <= 1000; ++s) {
    const unsigned cpu = s % 2;
    state = next(state, sample(s * kSecond, s * kSecond / 2, 0, {{cpu, cpu}}), 0);
    EXPECT_EQ(state.by_id.at(cpu).user_ns, s * kSecond / 2);
    EXPECT_EQ(state.by_id.at(cpu).idle_ns, s * kSecond - s * kSecond / 2);
  }
}

TEST(CpuAccounting, CpusThatLeaveAndComeBackAreNotCountedAgain) {
  CpuAccounting state;
  std::uint64_t shown_seconds = 0;
  for (std::uint64_t s = 1; s <= 1000; ++s) {
    CpuSample now = sample(s * kSecond, s * kSecond / 4, 0, {{0, 0}, {1, 1}});
    if (s % 2 == 0) now.shown.pop_back();
    state = next(state, now, 0);
    shown_seconds += now.shown.size();
    ASSERT_EQ(all(sum_of(state)), shown_seconds * kSecond);
    ASSERT_EQ(busy(sum_of(state)), s * kSecond / 4);
  }
}

LoadSample load_sample(double seconds, double busy_s, std::uint64_t active) {
  LoadSample s;
  s.boottime_ns = static_cast<std::uint64_t>(seconds * 1e9);
  s.busy_ns = static_cast<std::uint64_t>(busy_s * 1e9);
  s.active = active;
  return s;
}

// The kernel's fixed-point loop (include/linux/sched/loadavg.h), a sample every 5 s.
double kernel_load1(unsigned samples, std::uint64_t active) {
  std::uint64_t load = 0;
  for (unsigned i = 0; i < samples; ++i) {
    const std::uint64_t exp = 1884, fixed = 2048;
    std::uint64_t newload = load * exp + active * fixed * (fixed - exp);
    if (active * fixed >= load) newload += fixed - 1;
    load = newload / fixed;
  }
  return static_cast<double>(load) / 2048;
}

TEST(LoadAccounting, ApproachesTheActiveTasksAsTheKernelDoes) {
  LoadAccounting state;
  for (unsigned i = 1; i <= 60; ++i) {
    state = next(state, load_sample(5.0 * i, 0, 3), 0);
    ASSERT_NEAR(state.load1, kernel_load1(i, 3), 0.02) << i;
  }
  EXPECT_NEAR(state.load1, 3.0, 0.03);
  EXPECT_LT(state.load15, 1.0);
}

TEST(LoadAccounting, TheResultDoesNotDependOnHowOftenItIsSampled) {
  LoadAccounting often, seldom;
  for (unsigned i = 1; i <= 3000; ++i) often = next(often, load_sample(0.1 * i, 0.2 * i, 2), 0);
  for (unsigned i = 1; i <= 5; ++i) seldom = next(seldom, load_sample(60.0 * i, 120.0 * i, 2), 0);
  EXPECT_NEAR(often.load1, seldom.load1, 1e-3);
  EXPECT_NEAR(often.load15, seldom.load15, 1e-3);
}

TEST(LoadAccounting, TheFirstReadIsRight) {
  const LoadAccounting busy = next({}, load_sample(1000, 3 * 300.0, 3), 700ULL * kSecond);
  EXPECT_NEAR(busy.load1, 3.0, 0.03);
  const LoadAccounting idle = next({}, load_sample(1000, 0, 0), 700ULL * kSecond);
  EXPECT_EQ(idle.load1, 0.0);
}

TEST(LoadAccounting, ThreeBusyTasksForFiveMinutesAndAnIdleNeighbour) {
  // One CPU for all three, nobody reads before; then a reader every 5 s.
  for (const bool measured : {false, true}) {
    LoadAccounting busy, idle;
    for (const double seconds : {300.0, 305.0, 310.0}) {
      LoadSample s = load_sample(1000 + seconds, seconds, 3);
      s.cpus = 1;
      if (measured) s.waited_ns = static_cast<std::uint64_t>(seconds * 1e9);
      busy = next(busy, s, 1000 * kSecond);
      LoadSample none = load_sample(1000 + seconds, 0, 0);
      none.cpus = 1;
      if (measured) none.waited_ns = 0;
      idle = next(idle, none, 1000 * kSecond);
      EXPECT_NEAR(busy.load1, kernel_load1(static_cast<unsigned>(seconds / 5), 3), 0.02);
      EXPECT_EQ(idle.load1, 0.0);
    }
    EXPECT_NEAR(busy.load1, 3.0, 0.03);
    EXPECT_NEAR(busy.load5, 3 * (1 - std::exp(-310.0 / 300)), 0.02);
  }
}

TEST(LoadAccounting, WaitingBesideBusyNeighboursCounts) {
  LoadSample s = load_sample(1000, 0.25 * 300, 3);  // a quarter of the CPU for three
  s.cpus = 1;
  s.waited_ns = 300 * kSecond;
  EXPECT_NEAR(next({}, s, 700ULL * kSecond).load1, 3.0, 0.03);
  s.waited_ns = 30 * kSecond;  // seldom: the three have just come
  EXPECT_NEAR(next({}, s, 700ULL * kSecond).load1, 0.73, 0.03);
  s.active = 0;  // at least one waited then
  EXPECT_NEAR(next({}, s, 700ULL * kSecond).load1, 0.32, 0.03);
}

TEST(LoadAccounting, TasksThatWaitForTheCpuCountInTheFirstReadToo) {
  LoadSample s = load_sample(1000, 0.97 * 300, 3);
  s.cpus = 1;
  EXPECT_NEAR(next({}, s, 700ULL * kSecond).load1, 3.0, 0.03);
  s.cpus = 8;  // not saturated: the three have just come
  EXPECT_NEAR(next({}, s, 700ULL * kSecond).load1, 1.13, 0.03);
  s.cpus = 1;
  s.active = 0;  // and have just gone
  EXPECT_NEAR(next({}, s, 700ULL * kSecond).load1, 0.89, 0.03);
}

}  // namespace
}  // namespace umwelt::view
