// SPDX-License-Identifier: Apache-2.0
#include "launch/settings.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"

namespace umwelt::launch {
namespace {

constexpr std::uint64_t kMiB = 1U << 20;

std::vector<std::string> lines(const std::vector<Setting>& settings) {
  std::vector<std::string> out;
  for (const Setting& setting : settings) out.push_back(setting.file + "=" + setting.value);
  return out;
}
using Lines = std::vector<std::string>;

ResourceLimits memory(std::uint64_t mib) {
  ResourceLimits limits;
  limits.memory_bytes = mib * kMiB;
  return limits;
}

MemoryLimits current_v1(std::uint64_t memory_mib, std::uint64_t swap_mib) {
  return {memory_mib * kMiB, swap_mib * kMiB, true};
}

TEST(Settings, NothingAskedNothingWritten) {
  EXPECT_EQ(lines(settings_v1({}, {})), Lines{});
  EXPECT_EQ(lines(settings_v2({}, {})), Lines{});
}

TEST(Settings, V1NewContainerMayUseAsMuchSwapAsMemory) {
  EXPECT_EQ(lines(settings_v1(memory(64), {})),
            (Lines{"memory.limit_in_bytes=67108864", "memory.memsw.limit_in_bytes=134217728"}));
}

TEST(Settings, V1WithoutSwapAccountingWritesNoSwap) {
  EXPECT_EQ(lines(settings_v1(memory(64), {std::nullopt, std::nullopt, false})),
            (Lines{"memory.limit_in_bytes=67108864"}));
}

TEST(Settings, V1RaisesSwapFirstAndLowersMemoryFirst) {
  EXPECT_EQ(lines(settings_v1(memory(512), current_v1(64, 128))),
            (Lines{"memory.memsw.limit_in_bytes=603979776", "memory.limit_in_bytes=536870912"}));
  EXPECT_EQ(lines(settings_v1(memory(32), current_v1(64, 128))),
            (Lines{"memory.limit_in_bytes=33554432", "memory.memsw.limit_in_bytes=100663296"}));
}

TEST(Settings, V1EveryPrefixKeepsMemoryBelowSwap) {
  for (const std::uint64_t old_memory : {8U, 64U, 512U})
    for (const std::uint64_t old_swap : {0U, 16U, 600U})
      for (const std::uint64_t new_memory : {8U, 65U, 600U, 4096U}) {
        const MemoryLimits now = current_v1(old_memory, old_memory + old_swap);
        std::uint64_t limit = *now.memory_bytes, swap = *now.memory_swap_bytes;
        for (const Setting& setting : settings_v1(memory(new_memory), now)) {
          (setting.file == "memory.limit_in_bytes" ? limit : swap) = std::stoull(setting.value);
          EXPECT_LE(limit, swap) << old_memory << " " << old_swap << " " << new_memory;
        }
        EXPECT_EQ(swap - limit, old_swap * kMiB);
      }
}

TEST(Settings, SwapUnlimited) {
  ResourceLimits limits = memory(64);
  limits.memory_swap_unlimited = true;
  EXPECT_EQ(lines(settings_v1(limits, {})),
            (Lines{"memory.limit_in_bytes=67108864", "memory.memsw.limit_in_bytes=-1"}));
  EXPECT_EQ(lines(settings_v2(limits, {})), (Lines{"memory.max=67108864", "memory.swap.max=max"}));
}

TEST(Settings, V2SwapIsWhatIsBeyondMemory) {
  ResourceLimits limits = memory(64);
  limits.memory_swap_bytes = 80 * kMiB;
  EXPECT_EQ(lines(settings_v2(limits, {})),
            (Lines{"memory.max=67108864", "memory.swap.max=16777216"}));
  limits.memory_swap_bytes = 64 * kMiB;
  EXPECT_EQ(lines(settings_v2(limits, {})), (Lines{"memory.max=67108864", "memory.swap.max=0"}));
}

TEST(Settings, V2UpdateOfMemoryAloneKeepsSwap) {
  EXPECT_EQ(lines(settings_v2(memory(128), {64 * kMiB, std::nullopt, true})),
            (Lines{"memory.max=134217728"}));
}

TEST(Settings, V2UpdateOfSwapAloneTakesTheMemoryThatIsThere) {
  ResourceLimits limits;
  limits.memory_swap_bytes = 100 * kMiB;
  EXPECT_EQ(lines(settings_v2(limits, {64 * kMiB, std::nullopt, true})),
            (Lines{"memory.swap.max=37748736"}));
}

TEST(Settings, CpuAndPids) {
  ResourceLimits limits;
  limits.cpuset_cpus = CpuSet::parse("0,2-3");
  limits.cpuset_mems = CpuSet::parse("0");
  limits.bandwidth = {50000, 100000};
  limits.cpu_shares = 512;
  limits.pids_limit = 100;
  EXPECT_EQ(lines(settings_v1(limits, {})),
            (Lines{"cpuset.cpus=0,2-3", "cpuset.mems=0", "cpu.cfs_period_us=100000",
                   "cpu.cfs_quota_us=50000", "cpu.shares=512", "pids.max=100"}));
  EXPECT_EQ(lines(settings_v2(limits, {})),
            (Lines{"cpuset.cpus=0,2-3", "cpuset.mems=0", "cpu.max=50000 100000", "cpu.weight=20",
                   "pids.max=100"}));
}

TEST(Settings, SharesSpanTheWholeScaleOfWeights) {
  EXPECT_EQ(weight_of_shares(2), 1U);
  EXPECT_EQ(weight_of_shares(1024), 39U);
  EXPECT_EQ(weight_of_shares(262144), 10000U);
}

TEST(Settings, OfControllersOnBothVersions) {
  ResourceLimits limits = memory(64);
  limits.pids_limit = 100;
  limits.cpu_shares = 512;
  const std::map<std::string, std::string> v1 = {{"cpu", "/cpu"}, {"freezer", "/freezer"}};
  EXPECT_EQ(
      lines(settings_of(limits, {}, v1)),
      (Lines{"cpu.shares=512", "memory.max=67108864", "memory.swap.max=67108864", "pids.max=100"}));
  EXPECT_EQ(lines(settings_of(limits, {}, {})), lines(settings_v2(limits, {})));
}

TEST(V2Controllers, AllThatContainersUseWhereV2IsAlone) {
  EXPECT_EQ(choose_v2_controllers("cpuset cpu io memory hugetlb pids rdma misc dmem\n", true),
            (Lines{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"}));
  EXPECT_EQ(choose_v2_controllers("\n", true), Lines{});
}

TEST(V2Controllers, BesideV1ThoseALimitNeeds) {
  EXPECT_EQ(choose_v2_controllers("hugetlb rdma misc\n", false), Lines{});
  EXPECT_EQ(choose_v2_controllers("memory\n", false), Lines{"memory"});
  EXPECT_EQ(choose_v2_controllers("cpuset cpu io memory hugetlb pids rdma misc\n", false),
            (Lines{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"}));
}

class EnableControllers : public testing::Test {
 protected:
  EnableControllers() { std::filesystem::create_directory(directory_); }
  ~EnableControllers() override { std::filesystem::remove_all(directory_); }
  std::string directory_ = testing::TempDir() + "umwelt-settings-" + std::to_string(::getpid());
};

TEST_F(EnableControllers, WritesThoseThatAreNotEnabled) {
  const std::string file = directory_ + "/cgroup.subtree_control";
  std::ofstream(file) << "cpu memory pids\n";
  EXPECT_EQ(enable_controllers(directory_, {"memory", "pids"}), (Lines{"memory", "pids"}));
  EXPECT_EQ(*read_file(file), "cpu memory pids\n");
  EXPECT_EQ(enable_controllers(directory_, {"memory", "hugetlb"}), (Lines{"memory", "hugetlb"}));
  EXPECT_TRUE(read_file(file)->starts_with("+hugetlb"));
}

TEST_F(EnableControllers, OnlyOfACgroupWithoutProcessesOrTheMachinesRoot) {
  std::ofstream(directory_ + "/cgroup.subtree_control") << "pids\n";
  std::ofstream(directory_ + "/cgroup.procs") << "1\n";
  EXPECT_EQ(enable_controllers(directory_, {"cpu", "pids"}), (Lines{"cpu", "pids"}));
  std::ofstream(directory_ + "/cgroup.type") << "domain\n";
  std::ofstream(directory_ + "/cgroup.subtree_control") << "pids\n";
  EXPECT_EQ(enable_controllers(directory_, {"cpu", "pids"}), Lines{"pids"});
  std::ofstream(directory_ + "/cgroup.procs") << "";
  EXPECT_EQ(enable_controllers(directory_, {"cpu", "pids"}), (Lines{"cpu", "pids"}));
}

TEST_F(EnableControllers, LeavesOutWhatTheKernelRefuses) {
  EXPECT_EQ(enable_controllers(directory_ + "/none", {"cpu"}), Lines{});
}

TEST(CheckLimits, RefusesWhatTheHostOrTheKernelCannot) {
  const auto refused = [](auto set) {
    ResourceLimits limits;
    set(limits);
    const auto result = check_limits(limits);
    return result ? std::string() : result.error().message();
  };
  EXPECT_NE(refused([](auto& l) { l.cpuset_cpus = CpuSet::range(8000, 8001); }).find("8000-8001"),
            std::string::npos);
  EXPECT_NE(refused([](auto& l) { l.cpuset_cpus = CpuSet(); }), "");
  EXPECT_NE(refused([](auto& l) { l.bandwidth = {999, 100000}; }), "");
  EXPECT_NE(refused([](auto& l) { l.bandwidth = {5000, 999}; }), "");
  EXPECT_NE(refused([](auto& l) { l.bandwidth = {5000, 1000001}; }), "");
  EXPECT_NE(refused([](auto& l) { l.bandwidth = {100000ULL * 9000, 100000}; }), "");
  EXPECT_NE(refused([](auto& l) { l.cpu_shares = 1; }), "");
  EXPECT_NE(refused([](auto& l) { l.memory_bytes = (4U << 20) - 1; }), "");
  EXPECT_NE(refused([](auto& l) { l.memory_bytes = ~0ULL; }), "");
  EXPECT_NE(refused([](auto& l) {
              l.memory_bytes = 8U << 20;
              l.memory_swap_bytes = 7U << 20;
            }),
            "");
  EXPECT_NE(refused([](auto& l) { l.pids_limit = 0; }), "");
  EXPECT_EQ(refused([](auto& l) {
              l.memory_bytes = 4U << 20;
              l.bandwidth = {1000, 100000};
              l.pids_limit = 1;
            }),
            "");
}

TEST(CheckLimits, WithoutNumaTheOnlyNodeIsZero) {
  ResourceLimits limits;
  limits.cpuset_mems = CpuSet::parse("0");
  EXPECT_TRUE(check_limits(limits, "/nowhere"));
  limits.cpuset_mems = CpuSet::parse("0-1");
  const auto result = check_limits(limits, "/nowhere");
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message().find("no memory node 1"), std::string::npos)
      << result.error().message();
}

}  // namespace
}  // namespace umwelt::launch
