// SPDX-License-Identifier: Apache-2.0
#include "cgroup/cpu_time.h"

#include <gtest/gtest.h>

#include <random>

#include "cgroup/reader.h"
#include "tree.h"

namespace umwelt::cgroup {
namespace {

CpuTime time_of(std::uint64_t user, std::uint64_t nice, std::uint64_t system) {
  return {user, nice, system, 0, {}};
}
std::uint64_t sum(const CpuTime& time) { return time.user_ns + time.nice_ns + time.system_ns; }

TEST(DivideCpuTime, FollowsTheMeasuredRatio) {
  const CpuTime time = divide_cpu_time({}, time_of(3, 1, 4), 8000);
  EXPECT_EQ(time.user_ns, 3000u);
  EXPECT_EQ(time.nice_ns, 1000u);
  EXPECT_EQ(time.system_ns, 4000u);
}

TEST(DivideCpuTime, NothingMeasuredIsUserTime) {
  EXPECT_EQ(divide_cpu_time({}, {}, 500).user_ns, 500u);
}

TEST(DivideCpuTime, ATotalThatWentBackChangesNothing) {
  const CpuTime before = time_of(500, 20, 300);
  const CpuTime time = divide_cpu_time(before, time_of(1, 1, 1), 700);
  EXPECT_EQ(time.user_ns, 500u);
  EXPECT_EQ(time.nice_ns, 20u);
  EXPECT_EQ(time.system_ns, 300u);
}

TEST(DivideCpuTime, NeverGoesBackAndAlwaysAddsUp) {
  std::mt19937_64 random(1);
  CpuTime time, measured;
  std::uint64_t total = 0;
  for (int round = 0; round < 20000; ++round) {
    // Ticks that jump about: in some rounds the ratio is turned over.
    measured.user_ns = random() % 1000;
    measured.nice_ns = random() % 10;
    measured.system_ns = random() % 1000;
    total += random() % 1'000'000'000;
    const CpuTime next = divide_cpu_time(time, measured, total);
    ASSERT_EQ(sum(next), total);
    ASSERT_GE(next.user_ns, time.user_ns);
    ASSERT_GE(next.nice_ns, time.nice_ns);
    ASSERT_GE(next.system_ns, time.system_ns);
    time = next;
  }
}

TEST(DivideCpuTime, HugeNumbersDoNotOverflow) {
  const std::uint64_t most = ~0ULL;
  const CpuTime time = divide_cpu_time({}, time_of(most, most, most), most);
  EXPECT_EQ(sum(time), most);
}

class CpuTimeOfTree : public testing::Test {
 protected:
  Tree tree_;
  Hierarchies hierarchies_;
};

TEST_F(CpuTimeOfTree, NiceIsAPartOfUserOnV2) {
  hierarchies_.v2 = "/cg";
  tree_.write("cg/a/cpu.stat", "usage_usec 100\nuser_usec 60\nsystem_usec 40\nnice_usec 25\n");
  auto reader = Reader::open(hierarchies_, {{"", "/a"}}, tree_.root());
  ASSERT_TRUE(reader);
  const auto time = reader->read(kCpuTime)->cpu_time;
  EXPECT_EQ(time->user_ns, 35000u);
  EXPECT_EQ(time->nice_ns, 25000u);
  EXPECT_EQ(time->system_ns, 40000u);
}

TEST_F(CpuTimeOfTree, TheRootOfAV1HierarchyCountsEverybodys) {
  hierarchies_.v1 = {{"cpu", "/cpuacct"}, {"cpuacct", "/cpuacct"}, {"memory", "/memory"}};
  for (const char* folder : {"cpuacct/", "cpuacct/a/"}) {
    tree_.write(std::string(folder) + "cpuacct.usage_percpu", "1000 2000\n");
    tree_.write(std::string(folder) + "cpu.stat", "throttled_time 50\n");
  }
  tree_.write("memory/x/memory.stat", "");
  const auto read = [&](const char* cpuacct) {
    const Paths paths = {{"cpu", cpuacct}, {"cpuacct", cpuacct}, {"memory", "/x"}};
    auto reader = Reader::open(hierarchies_, paths, tree_.root());
    EXPECT_TRUE(reader);
    return *reader->read(kCpuTime)->cpu_time;
  };
  EXPECT_EQ(sum(read("/")), 0u);
  EXPECT_TRUE(read("/").per_cpu.empty());
  EXPECT_EQ(read("/").throttled_ns, 0u);
  EXPECT_EQ(sum(read("/a")), 3000u);
  EXPECT_EQ(read("/a").throttled_ns, 50u);
}

TEST_F(CpuTimeOfTree, AnAncestorsQuotaThrottlesTheTasksHere) {
  hierarchies_.v2 = "/cg";
  tree_.write("cg/p/a/cpu.stat", "usage_usec 1\nuser_usec 1\nsystem_usec 0\nthrottled_usec 5\n");
  tree_.write("cg/p/a/cpu.stat.local", "throttled_usec 70\n");
  tree_.write("cg/p/a/cpu.max", "max 100000\n");
  auto reader = Reader::open(hierarchies_, {{"", "/p/a"}}, tree_.root());
  ASSERT_TRUE(reader);
  EXPECT_EQ(reader->read(kCpuTime)->cpu_time->throttled_ns, 5000u);
  tree_.write("cg/p/cpu.max", "50000 100000\n");
  ASSERT_TRUE(reader->read_limits(CpuSet::range(0, 3)));
  EXPECT_EQ(reader->read(kCpuTime)->cpu_time->throttled_ns, 70000u);
  // One that is larger than the cgroup's own is shared with others, and may end sooner.
  tree_.write("cg/p/a/cpu.max", "25000 100000\n");
  tree_.write("cg/p/a/cpu.stat.local", "throttled_usec 80\n");
  ASSERT_TRUE(reader->read_limits(CpuSet::range(0, 3)));
  EXPECT_EQ(reader->read(kCpuTime)->cpu_time->throttled_ns, 80000u);
  // Time that was throttled once stays so.
  tree_.write("cg/p/cpu.max", "max 100000\n");
  ASSERT_TRUE(reader->read_limits(CpuSet::range(0, 3)));
  EXPECT_EQ(reader->read(kCpuTime)->cpu_time->throttled_ns, 80000u);
}

// A service in a slice that has a quota.
TEST_F(CpuTimeOfTree, BelowTheLastCgroupWithTheCpuControllerNothingIsSaidOfAQuota) {
  hierarchies_.v2 = "/cg";
  tree_.write("cg/p/cpu.max", "50000 100000\n");
  tree_.write("cg/p/a/cpu.stat", "usage_usec 2\nuser_usec 1\nsystem_usec 1\n");
  tree_.write("cg/p/a/cpu.stat.local", "");
  auto reader = Reader::open(hierarchies_, {{"", "/p/a"}}, tree_.root());
  ASSERT_TRUE(reader);
  const auto state = reader->read(kCpuTime);
  ASSERT_TRUE(state) << state.error().text;
  EXPECT_EQ(sum(*state->cpu_time), 2000u);
  EXPECT_EQ(state->cpu_time->throttled_ns, 0u);
}

TEST_F(CpuTimeOfTree, CpuOnV1WithoutCpuacct) {
  hierarchies_.v1 = {{"cpu", "/cpu"}};
  hierarchies_.v2 = "/cg";
  tree_.write("cpu/a/cpu.stat", "nr_periods 1\nnr_throttled 1\nthrottled_time 12345\n");
  tree_.write("cg/a/cpu.stat", "usage_usec 100\nuser_usec 60\nsystem_usec 40\n");
  auto reader = Reader::open(hierarchies_, {{"cpu", "/a"}, {"", "/a"}}, tree_.root());
  ASSERT_TRUE(reader);
  const auto time = reader->read(kCpuTime)->cpu_time;
  EXPECT_EQ(time->user_ns, 60000u);
  EXPECT_EQ(time->throttled_ns, 12345u);
}

TEST_F(CpuTimeOfTree, NoAccountingIsZero) {
  hierarchies_.v1 = {{"memory", "/memory"}};
  tree_.write("memory/a/tasks", "");
  auto reader = Reader::open(hierarchies_, {{"memory", "/a"}}, tree_.root());
  ASSERT_TRUE(reader);
  EXPECT_EQ(sum(*reader->read(kCpuTime)->cpu_time), 0u);
}

}  // namespace
}  // namespace umwelt::cgroup
