// SPDX-License-Identifier: Apache-2.0
#include "view/sys_node.h"

#include <gtest/gtest.h>

#include "make.h"
#include "view/sys_files.h"

namespace umwelt::view {
namespace {

// Node 0: CPUs 0-3 and 4 GiB; node 1: CPUs 4-7 and 12 GiB; node 2: no CPU and no memory.
host::Facts two_nodes() {
  host::Facts facts = make_host();
  auto cpus = std::make_shared<host::Cpus>(*facts.cpus);
  cpus->nodes = {
      {0, CpuSet::range(0, 3), 4096 * kMiB}, {1, CpuSet::range(4, 7), 12288 * kMiB}, {2, {}, 0}};
  cpus->nodes_possible = CpuSet::range(0, 3);
  cpus->nodes_with_normal_memory = CpuSet::range(0, 1);
  facts.cpus = cpus;
  auto meminfo = std::make_shared<std::vector<host::NodeMeminfo>>();
  for (const std::uint64_t mib : {4096, 12288, 0})
    meminfo->push_back({static_cast<unsigned>(meminfo->size()),
                        {{{"MemTotal", mib * kMiB, true},
                          {"MemFree", mib / 2 * kMiB, true},
                          {"Inactive(file)", mib / 4 * kMiB, true}}}});
  facts.node_meminfo = meminfo;
  return facts;
}

Resources container(std::string_view cpus, std::string_view mems, std::uint64_t memory_max = 0,
                    CpuIds ids = CpuIds::kHost) {
  Identity identity = make_identity();
  identity.policy.cpu_ids = ids;
  cgroup::State state = make_state(cpus);
  state.limits.mems = *CpuSet::parse(mems);
  if (memory_max > 0) state.limits.memory_max_bytes = memory_max;
  state.memory->limit_usage_bytes = state.memory->usage_bytes = 64 * kMiB + 4096;
  state.memory->stat.anon = 40 * kMiB;
  return resources(two_nodes(), state, identity, {});
}

std::string node_file(const Resources& r, unsigned node, const char* path, std::string_view text) {
  const SysFile* file = find_sys_file("sys/devices/system/node/node0/" + std::string(path));
  return file == nullptr ? "passed through" : file->render(r, {.node = node}, text);
}

// Without the spaces that keep the length of the file the same.
std::string figures(std::string text) {
  const std::size_t last = text.find_last_not_of(" \n");
  return text.erase(last + 1) + "\n";
}

TEST(SysNode, NodesOfTheCpusAndOfTheMemory) {
  const Resources both = container("0-7", "0-1");
  EXPECT_EQ(render_node_online(both), "0-1\n");
  EXPECT_EQ(render_node_possible(both), "0-3\n");
  EXPECT_EQ(render_node_has_cpu(both), "0-1\n");
  EXPECT_EQ(render_node_has_memory(both), "0-1\n");
  const Resources apart = container("1", "1");
  EXPECT_EQ(render_node_online(apart), "0-1\n");
  EXPECT_EQ(render_node_has_cpu(apart), "0\n");
  EXPECT_EQ(render_node_has_memory(apart), "1\n");
  EXPECT_EQ(render_node_has_normal_memory(apart), "1\n");
  const Resources one = container("4-5", "1");
  EXPECT_EQ(render_node_online(one), "1\n");
  EXPECT_EQ(render_node_has_cpu(one), "1\n");
  // v1 without a cpuset, or one of nodes that are gone
  EXPECT_EQ(render_node_has_memory(container("4-5", "")), "0-1\n");
  EXPECT_EQ(render_node_has_memory(container("4-5", "2")), "0-1\n");
}

TEST(SysNode, FilesThatNameCpusAndNodes) {
  const Resources r = container("1,4-5", "1");
  EXPECT_EQ(node_file(r, 0, "cpulist", "0-3\n"), "1\n");
  EXPECT_EQ(node_file(r, 1, "cpumap", "f0\n"), "30\n");
  EXPECT_EQ(node_file(r, 1, "distance", "20 10 30\n"), "20 10\n");
  EXPECT_EQ(node_file(container("4", "1"), 1, "distance", "20 10 30\n"), "10\n");
  EXPECT_EQ(node_file(r, 1, "distance", "20\n"), "");
  const Resources dense = container("1,4-5", "1", 0, CpuIds::kDense);
  EXPECT_EQ(node_file(dense, 1, "cpulist", "4-7\n"), "1-2\n");
  EXPECT_EQ(node_file(r, 1, "power/control", "auto\n"), "passed through");
}

TEST(SysNode, PartsOfTheNodesSumToTheWhole) {
  const Resources r = container("0-7", "0-1", 1000 * kMiB + 4096);
  for (const std::uint64_t value : {0U, 1U, 2U, 3U, 1023U, 1024001U, 4294967295U}) {
    EXPECT_EQ(share_of_node(r.nodes, 0, value) + share_of_node(r.nodes, 1, value), value);
    EXPECT_EQ(share_of_node(r.nodes, 0, value), value / 4);
    EXPECT_EQ(share_of_node(r.nodes, 2, value), 0U);
  }
}

TEST(SysNode, MeminfoIsThePartOfAnd0OnANodeWithoutMemory) {
  const Resources r = container("0-7", "0-1", 1000 * kMiB);
  const char* text =
      "Node 0 MemTotal:       4194304 kB\n"
      "Node 0 MemFree:        2097152 kB\n"
      "Node 0 MemUsed:        2097152 kB\n"
      "Node 0 AnonPages:        77777 kB\n"
      "Node 0 HugePages_Total:    12\n"
      "Node 0 SomethingNew:         7 kB\n";
  EXPECT_EQ(node_file(r, 0, "meminfo", text),
            "Node 0 MemTotal:        256000 kB\n"
            "Node 0 MemFree:         239615 kB\n"
            "Node 0 MemUsed:          16385 kB\n"
            "Node 0 AnonPages:        10240 kB\n"
            "Node 0 HugePages_Total:    12\n"
            "Node 0 SomethingNew:         0 kB\n");
  const Resources one = container("0-7", "1", 1000 * kMiB);
  EXPECT_EQ(node_file(one, 0, "meminfo", "Node 0 MemTotal:       4194304 kB\n"),
            "Node 0 MemTotal:             0 kB\n");
  EXPECT_EQ(node_file(r, 0, "meminfo", "MemTotal: 1 kB\n"), "");
  EXPECT_EQ(node_file(r, 0, "numastat", "numa_hit 123\nnuma_miss 4\n"),
            "numa_hit 0\nnuma_miss 0\n");
  EXPECT_EQ(figures(node_file(r, 0, "vmstat", "nr_free_pages 9\nnr_anon_pages 8\npgfault 7\n")),
            "nr_free_pages 59903\nnr_anon_pages 2560\npgfault 0\n");
}

TEST(SysNode, HugePagesAreThoseOfThePoolInBothFiles) {
  const auto both = [](const Resources& r, unsigned node, const char* key, const char* file) {
    const std::string line =
        node_file(r, node, "meminfo", std::string("Node 0 ") + key + ":    12\n");
    const SysFile* pool = find_sys_file(
        std::string("sys/devices/system/node/node0/hugepages/hugepages-2048kB/") + file);
    return std::pair(line.substr(line.rfind(' ') + 1),
                     pool->render(r, {.node = node, .page_bytes = 2 * kMiB}, "12\n"));
  };
  const auto agree = [](const char* pages) {
    return std::pair<std::string, std::string>(pages, pages);
  };
  const Resources one = container("0-7", "1", 1000 * kMiB);
  EXPECT_EQ(both(one, 0, "HugePages_Total", "nr_hugepages"), agree("0\n"));
  EXPECT_EQ(both(one, 1, "HugePages_Total", "nr_hugepages"), agree("12\n"));
  cgroup::State state = make_state();
  state.limits.memory_max_bytes = 1000 * kMiB;
  state.limits.hugetlb = {{2 * kMiB, 8 * 2 * kMiB}};
  state.hugetlb = {{2 * kMiB, 4 * 2 * kMiB}};
  const Resources limited = resources(two_nodes(), state, make_identity(), {});
  EXPECT_EQ(both(limited, 0, "HugePages_Total", "nr_hugepages"), agree("2\n"));
  EXPECT_EQ(both(limited, 1, "HugePages_Total", "nr_hugepages"), agree("6\n"));
  EXPECT_EQ(both(limited, 1, "HugePages_Free", "free_hugepages"), agree("3\n"));
  EXPECT_EQ(both(limited, 1, "HugePages_Surp", "surplus_hugepages"), agree("0\n"));
  state.limits.memory_max_bytes.reset();
  const Resources alone = resources(two_nodes(), state, make_identity(), {});
  EXPECT_FALSE(alone.memory.limited);
  EXPECT_EQ(both(alone, 1, "HugePages_Total", "nr_hugepages"), agree("6\n"));
  EXPECT_EQ(node_file(alone, 1, "meminfo", "Node 1 MemTotal:       7 kB\n"),
            "Node 1 MemTotal:       7 kB\n");
}

TEST(SysNode, FilePagesHaveTheSwapCache) {
  cgroup::State state = make_state();
  state.limits.memory_max_bytes = 1000 * kMiB;
  state.memory->limit_usage_bytes = state.memory->usage_bytes = 64 * kMiB;
  state.memory->stat.file = 40 * kMiB;
  state.memory->stat.swapcached = 8 * kMiB;
  const Resources r = resources(two_nodes(), state, make_identity(), {});
  EXPECT_EQ(node_file(r, 0, "meminfo", "Node 0 FilePages:       7 kB\n"),
            "Node 0 FilePages:   12288 kB\n");
  const std::string one = node_file(r, 0, "vmstat", "nr_file_pages 9\n"),
                    other = node_file(r, 1, "vmstat", "nr_file_pages 99999\n");
  EXPECT_EQ(figures(one), "nr_file_pages 3072\n");
  EXPECT_EQ(figures(other), "nr_file_pages 9216\n");
  EXPECT_EQ(one.size(), std::string("nr_file_pages 123456789012\n").size());
  EXPECT_EQ(one.size(), other.size());
}

TEST(SysNode, WithoutALimitTheHostsFilesAreShown) {
  const Resources r = container("0-7", "0-1");
  EXPECT_FALSE(r.memory.limited);
  for (const char* file : {"meminfo", "numastat"})
    EXPECT_EQ(node_file(r, 0, file, "as it is 12\n"), "as it is 12\n");
  const std::string one = node_file(r, 0, "vmstat", "nr_file_pages 9\npgfault 99\n"),
                    other = node_file(r, 0, "vmstat", "nr_file_pages 12345\npgfault 100\n");
  EXPECT_EQ(figures(one), "nr_file_pages 9\npgfault 99\n");
  EXPECT_EQ(figures(other), "nr_file_pages 12345\npgfault 100\n");
  EXPECT_EQ(one.size(), other.size());
}

TEST(SysNode, NodesAreALimitOfTheMemory) {
  const Resources r = container("0-3", "0");
  EXPECT_TRUE(r.memory.limited);
  EXPECT_EQ(r.memory.total, 4096 * kMiB);
  EXPECT_EQ(r.memory.free, 2048 * kMiB);
  EXPECT_EQ(r.memory.available, 3072 * kMiB);
  EXPECT_EQ(r.memory_max, 4096 * kMiB);
  const Resources less = container("0-3", "0", 100 * kMiB);
  EXPECT_EQ(less.memory.total, 100 * kMiB);
}

TEST(Hugepages, AtMostTheLimit) {
  Identity identity = make_identity();
  cgroup::State state = make_state();
  state.limits.hugetlb = {{2 * kMiB, 16 * kMiB}};
  state.hugetlb = {{2 * kMiB, 6 * kMiB}};
  const Resources r = resources(two_nodes(), state, identity, {});
  const auto file = [&](const std::string& path, std::uint64_t page, const char* text) {
    const SysFile* found = find_sys_file(path);
    return found == nullptr ? "passed through" : found->render(r, {.page_bytes = page}, text);
  };
  const std::string small = "sys/kernel/mm/hugepages/hugepages-2048kB/";
  const std::string large = "sys/kernel/mm/hugepages/hugepages-1048576kB/";
  EXPECT_EQ(file(small + "nr_hugepages", 2 * kMiB, "100\n"), "8\n");
  EXPECT_EQ(file(small + "nr_hugepages", 2 * kMiB, "4\n"), "4\n");
  EXPECT_EQ(file(small + "free_hugepages", 2 * kMiB, "90\n"), "5\n");
  EXPECT_EQ(file(small + "free_hugepages", 2 * kMiB, "1\n"), "1\n");
  EXPECT_EQ(file(small + "resv_hugepages", 2 * kMiB, "3\n"), "0\n");
  EXPECT_EQ(file(large + "nr_hugepages", 1024 * kMiB, "2\n"), "2\n");
  EXPECT_EQ(file(small + "demote", 2 * kMiB, ""), "passed through");
  const std::string node = "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
  EXPECT_EQ(file(node, 2 * kMiB, "50\n"), "2\n");
}

}  // namespace
}  // namespace umwelt::view
