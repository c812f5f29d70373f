// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "cgroup/reader.h"
#include "tree.h"

namespace umwelt::cgroup {
namespace {

class V2Memory : public testing::Test {
 protected:
  V2Memory() { hierarchies_.v2 = "/cg"; }
  void write(const std::string& path, const std::string& text) { tree_.write("cg/" + path, text); }
  Memory read(const char* path, unsigned part = kSwap) {
    auto reader = Reader::open(hierarchies_, {{"", path}}, tree_.root());
    EXPECT_TRUE(reader) << reader.error().message();
    auto state = reader->read(part);
    EXPECT_TRUE(state) << state.error().message();
    return *state->memory;
  }
  Tree tree_;
  Hierarchies hierarchies_;
};

TEST_F(V2Memory, OfTheCgroupThatLimitsItself) {
  write("a/memory.max", "1000000\n");
  write("a/memory.current", "90000\n");
  write("a/memory.swap.current", "700\n");
  write("a/memory.stat", "anon 10\nfile 20\ninactive_file 5\nactive_file 6\nslab_reclaimable 7\n");
  const Memory memory = read("/a");
  EXPECT_EQ(memory.usage_bytes, 90000u);
  EXPECT_EQ(memory.swap_usage_bytes, 700u);
  EXPECT_EQ(memory.limit_usage_bytes, 90000u);
  EXPECT_EQ(memory.limit_inactive_file, 5u);
  EXPECT_EQ(memory.limit_active_file, 6u);
  EXPECT_EQ(memory.limit_slab_reclaimable, 7u);
}

TEST_F(V2Memory, OfTheAncestorThatLimitsIt) {
  write("p/memory.max", "1000000\n");
  write("p/memory.current", "90000\n");
  write("p/memory.stat", "anon 1\ninactive_file 500\nactive_file 600\nslab_reclaimable 700\n");
  write("p/a/memory.max", "2000000\n");
  write("p/a/memory.current", "1234\n");
  write("p/a/memory.swap.current", "9\n");
  write("p/a/memory.stat", "anon 10\nfile 20\nswapcached 7\nkernel 30\nsock 4\ninactive_file 5\n");
  const Memory memory = read("/p/a");
  EXPECT_EQ(memory.usage_bytes, 10u + 20 + 30 + 4);
  EXPECT_EQ(memory.swap_usage_bytes, 9u);
  EXPECT_EQ(memory.limit_usage_bytes, 90000u);
  EXPECT_EQ(memory.limit_inactive_file, 500u);
  EXPECT_EQ(memory.limit_active_file, 600u);
  EXPECT_EQ(memory.limit_slab_reclaimable, 700u);
  EXPECT_EQ(memory.stat.inactive_file, 5u);
}

TEST_F(V2Memory, SwapOfTheAncestorThatLimitsIt) {
  write("p/memory.max", "max\n");
  write("p/memory.swap.max", "5000\n");
  write("p/memory.swap.current", "4000\n");
  write("p/a/memory.max", "2000\n");
  write("p/a/memory.swap.max", "6000\n");
  write("p/a/memory.swap.current", "9\n");
  write("p/a/memory.stat", "anon 10\n");
  EXPECT_EQ(read("/p/a").swap_usage_bytes, 9u);
  EXPECT_EQ(read("/p/a").limit_swap_usage_bytes, 4000u);
  write("p/a/memory.swap.max", "4900\n");
  EXPECT_EQ(read("/p/a").limit_swap_usage_bytes, 9u);
  EXPECT_EQ(read("/p/a", kMemory).limit_swap_usage_bytes, 9u);
}

TEST_F(V2Memory, OfEqualLimitsTheTopmostIsReachedFirst) {
  for (const std::string folder : {"p/", "p/a/"}) {
    write(folder + "memory.max", "1000000\n");
    write(folder + "memory.swap.max", "5000\n");
  }
  write("p/memory.current", "90000\n");
  write("p/memory.stat", "inactive_file 500\n");
  write("p/memory.swap.current", "4000\n");
  write("p/a/memory.current", "1234\n");
  write("p/a/memory.stat", "inactive_file 5\n");
  write("p/a/memory.swap.current", "9\n");
  const Memory memory = read("/p/a");
  EXPECT_EQ(memory.limit_usage_bytes, 90000u);
  EXPECT_EQ(memory.limit_inactive_file, 500u);
  EXPECT_EQ(memory.limit_swap_usage_bytes, 4000u);
  EXPECT_EQ(memory.swap_usage_bytes, 9u);
}

TEST_F(V2Memory, WhatTheAncestorsWithLargerLimitsLeave) {
  write("p/memory.max", "1000000\n");
  write("p/memory.current", "700000\n");
  write("p/memory.stat", "inactive_file 10\nactive_file 20\nslab_reclaimable 30\n");
  write("p/a/memory.max", "400000\n");
  write("p/a/memory.current", "50000\n");
  EXPECT_EQ(read("/p/a").above_available_bytes, 300060u);
  // Of p itself they are no ancestors; and without a limit of p there is none.
  EXPECT_GT(read("/p").above_available_bytes, 1000000u);
  write("p/memory.max", "max\n");
  EXPECT_GT(read("/p/a").above_available_bytes, 1000000u);
  // No more is reclaimable than is used, no more is left than the limit.
  write("p/memory.max", "500000\n");
  write("p/memory.current", "499990\n");
  EXPECT_EQ(read("/p/a").above_available_bytes, 70u);
  write("p/memory.stat", "inactive_file 600000\n");
  EXPECT_EQ(read("/p/a").above_available_bytes, 500000u);
}

TEST_F(V2Memory, TheFullestOfSeveralAncestorsCounts) {
  write("g/memory.max", "3000000\n");
  write("g/memory.current", "2999000\n");
  write("g/p/memory.max", "1000000\n");
  write("g/p/memory.current", "800000\n");
  write("g/p/a/memory.max", "400000\n");
  EXPECT_EQ(read("/g/p/a").above_available_bytes, 1000u);
  write("g/memory.current", "1000000\n");
  EXPECT_EQ(read("/g/p/a").above_available_bytes, 200000u);
  // A smaller limit further up is the limit, whatever lies between.
  write("g/memory.max", "300000\n");
  EXPECT_GT(read("/g/p/a").above_available_bytes, 1000000u);
}

TEST_F(V2Memory, SwapIsReadWhereSomebodyNeedsIt) {
  write("a/memory.swap.current", "9\n");
  write("a/memory.stat", "anon 10\n");
  for (const char* max : {"max\n", "0\n"}) {
    write("a/memory.swap.max", max);
    EXPECT_EQ(read("/a", kMemory).stat.anon, 10u);
    EXPECT_EQ(read("/a", kMemory).swap_usage_bytes, 0u);
    EXPECT_EQ(read("/a", kSwap).stat.anon, 10u);
    EXPECT_EQ(read("/a", kSwap).swap_usage_bytes, 9u);
  }
}

TEST_F(V2Memory, EventsAreEveryLineOfTheFile) {
  write("a/memory.max", "max\n");
  write("a/memory.stat", "anon 10\npgfault 7\nworkingset_refault_file 8\nodd\n");
  auto reader = Reader::open(hierarchies_, {{"", "/a"}}, tree_.root());
  ASSERT_TRUE(reader);
  const MemoryEvents expected = {{"anon", 10}, {"pgfault", 7}, {"workingset_refault_file", 8}};
  EXPECT_EQ(*reader->read(kMemoryEvents)->memory_events, expected);
}

TEST_F(V2Memory, TheRootHasNoUsageFile) {
  write("memory.stat", "anon 100\nfile 200\nkernel_stack 3\nslab_unreclaimable 4\n");
  const Memory memory = read("/");
  EXPECT_EQ(memory.usage_bytes, 307u);
  EXPECT_EQ(memory.limit_usage_bytes, 307u);
}

TEST_F(V2Memory, WithoutTheControllerEverythingIsZero) {
  write("a/cgroup.procs", "");
  const Memory memory = read("/a");
  EXPECT_EQ(memory.usage_bytes, 0u);
  EXPECT_EQ(memory.stat.anon, 0u);
  EXPECT_EQ(memory.stat.kernel, std::nullopt);
}

TEST_F(V2Memory, TheControllerMayComeLate) {
  write("a/cgroup.procs", "");
  auto reader = Reader::open(hierarchies_, {{"", "/a"}}, tree_.root());
  EXPECT_EQ(reader->read(kMemory)->memory->usage_bytes, 0u);
  write("a/memory.current", "4096\n");
  write("a/memory.max", "8192\n");
  EXPECT_EQ(reader->read_limits(CpuSet::range(0, 1))->memory_max_bytes, 8192u);
  EXPECT_EQ(reader->read(kMemory)->memory->usage_bytes, 4096u);
  // The limit moves to an ancestor and back.
  write("memory.max", "100\n");
  write("memory.current", "50\n");
  ASSERT_TRUE(reader->read_limits(CpuSet::range(0, 1)));
  EXPECT_EQ(reader->read(kMemory)->memory->limit_usage_bytes, 50u);
  tree_.remove("cg/memory.max");
  ASSERT_TRUE(reader->read_limits(CpuSet::range(0, 1)));
  EXPECT_EQ(reader->read(kMemory)->memory->limit_usage_bytes, 4096u);
}

TEST_F(V2Memory, GarbageIsAnError) {
  write("a/memory.current", "lots\n");
  auto reader = Reader::open(hierarchies_, {{"", "/a"}}, tree_.root());
  EXPECT_EQ(reader->read(kMemory).error().code, EINVAL);
}

TEST(V1Memory, TheRootsCountsAreEverybodys) {
  Tree tree;
  Hierarchies hierarchies;
  hierarchies.v1 = {{"memory", "/memory"}};
  tree.write("memory/memory.usage_in_bytes", "5000\n");
  tree.write("memory/memory.stat", "total_cache 100\ntotal_rss 200\ntotal_pgfault 3\n");
  auto reader = Reader::open(hierarchies, {{"memory", "/"}}, tree.root());
  ASSERT_TRUE(reader);
  const auto state = reader->read(kMemory | kMemoryEvents);
  ASSERT_TRUE(state);
  EXPECT_EQ(state->memory->usage_bytes, 0u);
  EXPECT_EQ(state->memory->stat.anon, 0u);
  EXPECT_TRUE(state->memory_events->empty());
  EXPECT_TRUE(reader->origin_of("memory.current")->empty());
}

TEST(V1Memory, SwapBeyondItsPartLeavesLessForMemory) {
  Tree tree;
  Hierarchies hierarchies;
  hierarchies.v1 = {{"memory", "/memory"}};
  const auto write = [&](const std::string& folder, const std::string& swap) {
    tree.write("memory/" + folder + "/memory.limit_in_bytes", "1000000\n");
    tree.write("memory/" + folder + "/memory.memsw.limit_in_bytes", "1000000\n");
    tree.write("memory/" + folder + "/memory.usage_in_bytes", "300000\n");
    tree.write("memory/" + folder + "/memory.stat",
               "total_rss 1\ntotal_active_file 20000\ntotal_swap " + swap + "\n");
  };
  const auto available = [&](const std::string& path) {
    auto reader = Reader::open(hierarchies, {{"memory", path}}, tree.root());
    EXPECT_TRUE(reader);
    return reader->read(kMemory)->memory->above_available_bytes;
  };
  write("a", "0");
  EXPECT_GE(available("/a"), 1000000u);
  write("a", "400000");
  EXPECT_EQ(available("/a"), 1000000u - 280000 - 400000);
  tree.write("memory/a/memory.memsw.limit_in_bytes", "1500000\n");
  EXPECT_GE(available("/a"), 1000000u);
  write("p", "400000");
  write("p/a", "5");
  EXPECT_EQ(available("/p/a"), 1000000u - 280000 - 400000);
}

TEST(V1Memory, SwapAccountingMayBeOff) {
  Tree tree;
  Hierarchies hierarchies;
  hierarchies.v1 = {{"memory", "/memory"}};
  tree.write("memory/a/memory.limit_in_bytes", "1000000\n");
  tree.write("memory/a/memory.usage_in_bytes", "5000\n");
  tree.write("memory/a/memory.stat", "total_cache 100\ntotal_rss 200\n");
  auto reader = Reader::open(hierarchies, {{"memory", "/a"}}, tree.root());
  ASSERT_TRUE(reader);
  const auto state = reader->read(kMemory);
  EXPECT_EQ(state->memory->swap_usage_bytes, 0u);
  EXPECT_EQ(state->limits.swap_max_bytes, std::nullopt);
  EXPECT_EQ(state->memory->stat.kernel, std::nullopt);
  EXPECT_EQ(state->memory->usage_bytes, 5000u);
}

}  // namespace
}  // namespace umwelt::cgroup
