// SPDX-License-Identifier: Apache-2.0
#include "fusefs/tree.h"

#include <gtest/gtest.h>

#include <set>

#include "fusefs/node.h"

namespace umwelt::fusefs {
namespace {

constexpr mode_t kFile = S_IFREG | 0444, kDir = S_IFDIR | 0755, kLink = S_IFLNK | 0777;

HostTree::Items host() {
  HostTree::Items items;
  items.common = {{"sys/devices/system/cpu/online", kFile},
                  {"sys/devices/system/cpu/smt", kDir},
                  {"sys/devices/system/cpu/smt/control", S_IFREG | 0644},
                  {"sys/devices/system/cpu/uevent", S_IFREG | 0200},
                  {"sys/kernel/mm/hugepages/hugepages-2048kB", kDir},
                  {"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", S_IFREG | 0644}};
  items.per_cpu = {{"node0", kLink},
                   {"power", kDir},
                   {"power/runtime_status", kFile},
                   {"topology", kDir},
                   {"topology/core_cpus_list", kFile},
                   {"topology/cluster_id", kFile}};
  items.per_node = {{"cpulist", kFile}, {"meminfo", kFile}, {"power", kDir}};
  return items;
}

std::shared_ptr<const Tree> build(const HostTree::Items& items = host()) {
  return *Tree::build(items, [](const std::string&) { return true; });
}

const Entry* at(const Tree& tree, std::string_view path, Side side) {
  const Entry* entry = &tree.root();
  while (entry != nullptr && !path.empty()) {
    const std::size_t slash = path.find('/');
    entry = entry->child(path.substr(0, slash), side);
    path.remove_prefix(slash == std::string_view::npos ? path.size() : slash + 1);
  }
  return entry;
}

TEST(Tree, EveryServedFileIsOnItsConnectionAndInTheSharedTree) {
  const auto tree = build();
  for (const view::File& file : view::files()) {
    const Entry* entry = at(*tree, file.path, Side::kShared);
    ASSERT_NE(entry, nullptr) << file.path;
    EXPECT_EQ(entry->file, &file);
    for (const Side side : {Side::kConfig, Side::kLive, Side::kPressure})
      EXPECT_EQ(at(*tree, file.path, side), side == side_of(file.connection) ? entry : nullptr)
          << file.path;
  }
}

TEST(Tree, HostFilesAreOnTheConfigConnectionAndNotWritable) {
  const auto tree = build();
  const std::string base(HostTree::kCpuDirectory);
  const Entry* control = at(*tree, base + "/smt/control", Side::kConfig);
  ASSERT_NE(control, nullptr);
  EXPECT_EQ(control->mode, mode_t{S_IFREG | 0444});
  EXPECT_FALSE(control->stable);
  EXPECT_EQ(at(*tree, base + "/smt", Side::kConfig)->mode, mode_t{S_IFDIR | 0555});
  EXPECT_EQ(at(*tree, base + "/uevent", Side::kConfig)->mode, mode_t{S_IFREG});
  EXPECT_EQ(at(*tree, base + "/smt", Side::kLive), nullptr);
  EXPECT_EQ(at(*tree, base + "/online", Side::kConfig)->source, Entry::Source::kView);
}

TEST(Tree, FilesOfOneCpu) {
  const auto tree = build();
  const Entry& cpu = tree->root(Scope::kCpu);
  EXPECT_TRUE(cpu.child("node0", Side::kConfig)->is_link());
  EXPECT_EQ(cpu.child("topology", Side::kLive), nullptr);
  const Entry* topology = cpu.child("topology", Side::kShared);
  ASSERT_NE(topology, nullptr);
  const Entry* siblings = topology->child("core_cpus_list", Side::kConfig);
  EXPECT_EQ(siblings->source, Entry::Source::kSysView);
  EXPECT_TRUE(siblings->stable);
  EXPECT_TRUE(topology->child("cluster_id", Side::kConfig)->stable);
  const Entry* power = cpu.child("power", Side::kConfig)->child("runtime_status", Side::kConfig);
  EXPECT_EQ(power->source, Entry::Source::kHost);
  EXPECT_FALSE(power->stable);
}

TEST(Tree, NodesAndHugePages) {
  const auto tree = build();
  const Entry* nodes = at(*tree, "sys/devices/system/node", Side::kConfig);
  ASSERT_EQ(nodes, &tree->node_parent());
  const Entry& node = tree->root(Scope::kNode);
  EXPECT_TRUE(node.child("cpulist", Side::kConfig)->stable);
  EXPECT_FALSE(node.child("meminfo", Side::kConfig)->stable);
  EXPECT_EQ(node.child("meminfo", Side::kConfig)->source, Entry::Source::kSysView);
  EXPECT_TRUE(tree->root(Scope::kNodeCpu).is_link());
  const Entry* pages =
      at(*tree, "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", Side::kConfig);
  ASSERT_NE(pages, nullptr);
  EXPECT_EQ(pages->page_bytes, 2U << 20);
  EXPECT_EQ(Tree::path_of(*node.child("cpulist", Side::kConfig), 1),
            "sys/devices/system/node/node1/cpulist");
}

TEST(Tree, WhatTheKernelLacksIsNotThere) {
  HostTree::Items items = host();
  items.per_node.clear();
  const auto tree = *Tree::build(items, [](const std::string& path) {
    return path != "proc/swaps" && !path.starts_with("sys/devices/system/node");
  });
  for (const Side side : {Side::kConfig, Side::kLive, Side::kPressure, Side::kShared}) {
    EXPECT_EQ(at(*tree, "sys/devices/system/node", side), nullptr);
    EXPECT_EQ(at(*tree, "proc/swaps", side), nullptr);
  }
  EXPECT_NE(at(*tree, "run/container_info", Side::kShared), nullptr);
}

TEST(Tree, KeysAreUniqueFoundAgainAndTheSameInAnotherTree) {
  const auto tree = build(), other = build();
  std::set<std::uint32_t> keys;
  auto twin = other->entries().begin();
  for (const Entry& entry : tree->entries()) {
    EXPECT_GT(entry.key, NodeId::kRoot);
    EXPECT_LE(entry.key, NodeId::kMaxKey);
    EXPECT_TRUE(keys.insert(entry.key).second) << entry.path;
    EXPECT_EQ(tree->find(entry.key), &entry);
    EXPECT_EQ(entry.key, (twin++)->key) << entry.path;
  }
}

}  // namespace
}  // namespace umwelt::fusefs
