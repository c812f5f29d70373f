// SPDX-License-Identifier: Apache-2.0
// Limits over ancestors, on trees of text files.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <cstring>

#include "base/file.h"
#include "cgroup/reader.h"
#include "tree.h"

namespace umwelt::cgroup {
namespace {

CpuSet cpus(const char* list) { return *CpuSet::parse(list); }

class V2Limits : public testing::Test {
 protected:
  V2Limits() {
    hierarchies_.v2 = "/cg";
    tree_.write("cg/a/b/c/cpu.stat", "usage_usec 0\n");
  }
  void write(const std::string& path, const std::string& text) { tree_.write("cg/" + path, text); }
  Result<Limits> limits(const char* path = "/a/b/c", const char* online = "0-7") {
    auto reader = Reader::open(hierarchies_, {{"", path}}, tree_.root());
    if (!reader) return fail(reader.error());
    return reader->read_limits(cpus(online));
  }
  Tree tree_;
  Hierarchies hierarchies_;
};

TEST_F(V2Limits, NothingThereLimitsNothing) {
  const auto found = limits();
  ASSERT_TRUE(found);
  Limits none;
  none.cpus = cpus("0-7");
  EXPECT_EQ(*found, none);
}

TEST_F(V2Limits, AFileThatGoesWhileItIsOpenedLimitsNothing) {
  // A device that nobody has registered: open(2) says ENODEV, as of the file of a controller that
  // is being disabled.
  write("a/b/memory.max", "1000000\n");
  const std::string path = tree_.root() + "/cg/a/b/c/memory.max";
  if (::mknod(path.c_str(), S_IFCHR | 0600, makedev(10, 199)) != 0)
    GTEST_SKIP() << "needs mknod: " << std::strerror(errno);
  if (const auto opened = open_at(AT_FDCWD, path, O_RDONLY);
      opened || opened.error().code != ENODEV)
    GTEST_SKIP() << "needs a device without a driver";
  const auto found = limits();
  ASSERT_TRUE(found) << found.error().message();
  EXPECT_EQ(found->memory_max_bytes, 1000000u);
}

TEST_F(V2Limits, TheSmallestOverAllAncestorsWins) {
  write("a/memory.max", "1000000\n");
  write("a/b/memory.max", "max\n");
  write("a/b/c/memory.max", "2000000\n");
  write("a/memory.swap.max", "500\n");
  write("a/b/c/memory.swap.max", "max\n");
  write("a/cpu.max", "150000 100000\n");
  write("a/b/cpu.max", "10000 5000\n");  // 2 CPUs
  write("a/b/c/cpu.max", "max 100000\n");
  write("a/b/pids.max", "20\n");
  write("a/b/c/pids.max", "30\n");
  write("a/b/c/memory.high", "1\n");  // slows down, does not limit
  const auto found = limits();
  ASSERT_TRUE(found);
  EXPECT_EQ(found->memory_max_bytes, 1000000u);
  EXPECT_EQ(found->swap_max_bytes, 500u);
  EXPECT_EQ(found->bandwidth, (Bandwidth{150000, 100000}));
  EXPECT_EQ(found->pids_max, 20u);
}

TEST_F(V2Limits, TheNearestEffectiveCpusetCounts) {
  write("cpuset.cpus.effective", "0-7\n");
  write("a/cpuset.cpus.effective", "2-5\n");
  write("a/cpuset.mems.effective", "1\n");
  EXPECT_EQ(limits()->cpus, cpus("2-5"));
  EXPECT_EQ(limits()->mems, cpus("1"));
  write("a/b/c/cpuset.cpus.effective", "4-9\n");
  EXPECT_EQ(limits()->cpus, cpus("4-7"));
  EXPECT_EQ(limits("/a/b/c", "0-4")->cpus, cpus("4"));
  // Its last CPU is offline: the kernel runs the tasks on the ancestor's.
  EXPECT_EQ(limits("/a/b/c", "0-3")->cpus, cpus("2-3"));
  EXPECT_EQ(limits("/a/b/c", "9,11")->cpus, cpus("9"));
  EXPECT_EQ(limits("/a/b/c", "11")->cpus, cpus("11"));
}

TEST_F(V2Limits, GarbageIsAnErrorNotALimit) {
  write("a/memory.max", "lots\n");
  EXPECT_EQ(limits().error().code, EINVAL);
  write("a/memory.max", "max\n");
  write("a/b/cpuset.cpus.effective", "5-1\n");
  EXPECT_EQ(limits().error().code, EINVAL);
}

TEST_F(V2Limits, AControllerIsNamedBeforeItsFilesAreThere) {
  write("a/b/c/cgroup.controllers", "pids\n");
  auto reader = Reader::open(hierarchies_, {{"", "/a/b/c"}}, tree_.root());
  ASSERT_TRUE(reader);
  // While it is being enabled.
  write("a/b/c/cgroup.controllers", "pids memory\n");
  EXPECT_EQ(reader->read_limits(cpus("0-7"))->memory_max_bytes, std::nullopt);
  write("a/b/c/memory.current", "4096\n");
  write("a/b/c/memory.stat", "anon 4096\n");
  write("a/b/c/memory.max", "8192\n");
  EXPECT_EQ(reader->read_limits(cpus("0-7"))->memory_max_bytes, 8192u);
  const auto state = reader->read(kMemory);
  ASSERT_TRUE(state);
  EXPECT_EQ(state->memory->usage_bytes, 4096u);
}

TEST_F(V2Limits, FiftyLevels) {
  std::string path;
  for (int level = 0; level < 50; ++level) {
    path += "/n";
    write(path.substr(1) + "/memory.max", level == 7 ? "4096\n" : "1000000\n");
  }
  EXPECT_EQ(limits(path.c_str())->memory_max_bytes, 4096u);
}

TEST_F(V2Limits, RefusesPathsOutOfTheHierarchy) {
  EXPECT_EQ(limits("/a/../../etc").error().code, EINVAL);
  EXPECT_EQ(limits("a").error().code, EINVAL);
  EXPECT_EQ(limits("/none").error().code, ENOENT);
  EXPECT_EQ(Reader::open({}, {{"", "/a"}}, tree_.root()).error().code, ENOENT);
}

class V1Limits : public testing::Test {
 protected:
  V1Limits() {
    hierarchies_.v1 = {{"memory", "/memory"}, {"cpu", "/cpu"}, {"cpuset", "/cpuset"}};
    tree_.write("memory/a/b/tasks", "");
    tree_.write("cpu/x/y/tasks", "");
    tree_.write("cpuset/s/tasks", "");
  }
  Result<Limits> limits() {
    auto reader = Reader::open(
        hierarchies_, {{"memory", "/a/b"}, {"cpu", "/x/y"}, {"cpuset", "/s"}}, tree_.root());
    if (!reader) return fail(reader.error());
    return reader->read_limits(cpus("0-7"));
  }
  Tree tree_;
  Hierarchies hierarchies_;
};

TEST_F(V1Limits, EachControllerByItsOwnPath) {
  tree_.write("cpu/x/cpu.cfs_quota_us", "25000\n");
  tree_.write("cpu/x/cpu.cfs_period_us", "50000\n");
  tree_.write("cpu/x/y/cpu.cfs_quota_us", "-1\n");
  tree_.write("cpu/x/y/cpu.cfs_period_us", "100000\n");
  tree_.write("cpu/s/cpu.cfs_quota_us", "1000\n");  // the cpuset's path says nothing of cpu
  tree_.write("cpu/s/cpu.cfs_period_us", "100000\n");
  tree_.write("cpuset/s/cpuset.effective_cpus", "1-2\n");
  const auto found = limits();
  ASSERT_TRUE(found);
  EXPECT_EQ(found->bandwidth, (Bandwidth{25000, 50000}));
  EXPECT_EQ(found->cpus, cpus("1-2"));
}

TEST_F(V1Limits, OldKernelsHaveNoEffectiveCpus) {
  tree_.write("cpuset/s/cpuset.cpus", "3\n");
  tree_.write("cpuset/s/cpuset.mems", "0\n");
  EXPECT_EQ(limits()->cpus, cpus("3"));
  EXPECT_EQ(limits()->mems, cpus("0"));
  tree_.write("cpuset/s/cpuset.cpus", "\n");
  tree_.write("cpuset/cpuset.cpus", "0-5\n");
  EXPECT_EQ(limits()->cpus, cpus("0-5"));
}

TEST_F(V1Limits, SwapIsWhatMemswLeaves) {
  tree_.write("memory/a/memory.limit_in_bytes", "9223372036854771712\n");
  tree_.write("memory/a/memory.memsw.limit_in_bytes", "500\n");
  tree_.write("memory/a/b/memory.limit_in_bytes", "200\n");
  tree_.write("memory/a/b/memory.memsw.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(limits()->memory_max_bytes, 200u);
  EXPECT_EQ(limits()->swap_max_bytes, 300u);
  // While both are lowered memsw is below the memory limit for a moment.
  tree_.write("memory/a/memory.memsw.limit_in_bytes", "100\n");
  EXPECT_EQ(limits()->swap_max_bytes, 0u);
  // Swap accounting is off.
  tree_.remove("memory/a/memory.memsw.limit_in_bytes");
  tree_.remove("memory/a/b/memory.memsw.limit_in_bytes");
  EXPECT_EQ(limits()->swap_max_bytes, std::nullopt);
}

TEST_F(V1Limits, WithASwappinessOf0ThereIsNoSwap) {
  tree_.write("memory/a/b/memory.limit_in_bytes", "200\n");
  tree_.write("memory/a/b/memory.memsw.limit_in_bytes", "500\n");
  tree_.write("memory/a/b/memory.swappiness", "60\n");
  EXPECT_EQ(limits()->swap_max_bytes, 300u);
  tree_.write("memory/a/b/memory.swappiness", "0\n");
  EXPECT_EQ(limits()->swap_max_bytes, 0u);
  tree_.remove("memory/a/b/memory.memsw.limit_in_bytes");
  EXPECT_EQ(limits()->swap_max_bytes, 0u);
}

TEST_F(V1Limits, AParentWithoutHierarchyDoesNotLimit) {
  tree_.write("memory/a/memory.limit_in_bytes", "100\n");
  tree_.write("memory/a/memory.use_hierarchy", "0\n");
  tree_.write("memory/a/b/memory.limit_in_bytes", "200\n");
  tree_.write("memory/a/b/memory.use_hierarchy", "0\n");
  EXPECT_EQ(limits()->memory_max_bytes, 200u);
  tree_.write("memory/a/memory.use_hierarchy", "1\n");
  EXPECT_EQ(limits()->memory_max_bytes, 100u);
}

TEST(HybridLimits, AControllerIsWhereItIsMounted) {
  Tree tree;
  Hierarchies hierarchies;
  hierarchies.v1 = {{"cpu", "/cpu"}, {"memory", "/memory"}};
  hierarchies.v2 = "/unified";
  tree.write("cpu/c/cpu.cfs_quota_us", "200000\n");
  tree.write("cpu/c/cpu.cfs_period_us", "100000\n");
  tree.write("memory/m/memory.limit_in_bytes", "4096\n");
  tree.write("unified/u/pids.max", "9\n");
  tree.write("unified/u/cpuset.cpus.effective", "2\n");
  tree.write("unified/u/memory.max", "1\n");  // memory is bound to v1
  auto reader =
      Reader::open(hierarchies, {{"cpu", "/c"}, {"memory", "/m"}, {"", "/u"}}, tree.root());
  ASSERT_TRUE(reader);
  const auto limits = reader->read_limits(cpus("0-3"));
  ASSERT_TRUE(limits);
  EXPECT_EQ(limits->bandwidth, (Bandwidth{200000, 100000}));
  EXPECT_EQ(limits->memory_max_bytes, 4096u);
  EXPECT_EQ(limits->pids_max, 9u);
  EXPECT_EQ(limits->cpus, cpus("2"));
}

}  // namespace
}  // namespace umwelt::cgroup
