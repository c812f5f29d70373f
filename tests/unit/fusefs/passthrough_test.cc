// SPDX-License-Identifier: Apache-2.0
#include "fusefs/passthrough.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace umwelt::fusefs {
namespace {

namespace fs = std::filesystem;

class PassthroughTest : public testing::Test {
 protected:
  PassthroughTest() {
    char name[] = "/tmp/umwelt-passthrough-XXXXXX";
    root_ = ::mkdtemp(name);
    fs::create_directories(root_ / "sys/devices/system/cpu/cpu0/topology");
    fs::create_directories(root_ / "sys/devices/system/cpu/cpu1/cache");
    fs::create_directories(root_ / "sys/devices/system/node/node1/cpu1");
    fs::create_directories(root_ / "sys/devices/system/node/node1/memory32");
    fs::create_directories(root_ / "sys/kernel/mm/hugepages/hugepages-2048kB");
    write("sys/devices/system/cpu/online", "0-1\n");
    write("sys/devices/system/cpu/cpu0/topology/core_id", "0\n");
    write("sys/devices/system/cpu/cpu1/cache/size", "32K\n");
    write("sys/devices/system/node/online", "1\n");
    write("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal: 1 kB\n");
    write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "4\n");
    fs::create_symlink("../../node/node1", root_ / "sys/devices/system/cpu/cpu1/node1");
  }
  ~PassthroughTest() override { fs::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    std::ofstream(root_ / path) << text;
  }
  fs::path root_;
};

std::vector<std::string> paths(const std::vector<HostTree::Item>& items) {
  std::vector<std::string> result;
  for (const auto& item : items) result.push_back(item.path);
  return result;
}

TEST_F(PassthroughTest, ScanUnitesTheCpusAndTheNodes) {
  const auto items = HostTree::open(root_)->scan();
  ASSERT_TRUE(items);
  EXPECT_EQ(
      paths(items->common),
      (std::vector<std::string>{"sys/devices/system/cpu/online", "sys/devices/system/node/online",
                                "sys/kernel/mm/hugepages/hugepages-2048kB",
                                "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"}));
  EXPECT_EQ(paths(items->per_cpu), (std::vector<std::string>{"cache", "cache/size", "node1",
                                                             "topology", "topology/core_id"}));
  EXPECT_EQ(paths(items->per_node), (std::vector<std::string>{"meminfo"}));
}

TEST_F(PassthroughTest, WhatRuntimesHideOfACpuIsLeftOut) {
  const std::string cpu = "sys/devices/system/cpu/cpu1/";
  for (const char* folder : {"thermal_throttle", "thermal"}) {
    fs::create_directories(root_ / (cpu + folder));
    write(cpu + folder + "/core_throttle_count", "7\n");
  }
  const auto items = HostTree::open(root_)->scan();
  ASSERT_TRUE(items);
  EXPECT_EQ(
      paths(items->per_cpu),
      (std::vector<std::string>{"cache", "cache/size", "node1", "thermal",
                                "thermal/core_throttle_count", "topology", "topology/core_id"}));
}

TEST_F(PassthroughTest, WhatTheHostLacksIsNoError) {
  fs::remove_all(root_ / "sys/devices/system/node");
  fs::remove_all(root_ / "sys/kernel");
  const auto items = HostTree::open(root_)->scan();
  ASSERT_TRUE(items);
  EXPECT_TRUE(items->per_node.empty());
  EXPECT_EQ(paths(items->common), (std::vector<std::string>{"sys/devices/system/cpu/online"}));
}

TEST_F(PassthroughTest, ReadsFilesAndLinks) {
  const auto tree = HostTree::open(root_);
  ASSERT_TRUE(tree);
  const std::string cpu = "sys/devices/system/cpu/";
  EXPECT_EQ(tree->read_text(cpu + "cpu0/topology/core_id").value(), "0\n");
  EXPECT_EQ(tree->read_link(cpu + "cpu1/node1").value(), "../../node/node1");
  EXPECT_TRUE(tree->exists(cpu + "cpu1/cache"));
  EXPECT_FALSE(tree->exists(cpu + "cpu0/cache"));
  EXPECT_EQ(tree->read_text(cpu + "cpu0/nothing").error().code, ENOENT);
  EXPECT_FALSE(tree->read_text(cpu + "cpu1/node1"));
  EXPECT_FALSE(tree->read_text(cpu + "cpu0"));
}

TEST(Passthrough, ThisMachine) {
  const auto items = HostTree::open()->scan();
  ASSERT_TRUE(items);
  const auto common = paths(items->common);
  EXPECT_NE(std::find(common.begin(), common.end(), "sys/devices/system/cpu/online"), common.end());
  for (const auto& path : common)
    EXPECT_FALSE(path.starts_with("sys/devices/system/cpu/cpu0")) << path;
  EXPECT_FALSE(items->per_cpu.empty());
}

}  // namespace
}  // namespace umwelt::fusefs
