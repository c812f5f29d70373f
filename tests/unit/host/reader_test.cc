// SPDX-License-Identifier: Apache-2.0
#include "host/reader.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "fixtures/many_cpus.h"

namespace umwelt::host {
namespace {

constexpr unsigned kAll = kCpus | kMeminfo | kStat | kSwaps | kUptime | kLoadavg;

// A folder with the files of a machine, removed at the end.
class Machine {
 public:
  Machine() {
    // In memory where there is such a place: some machines have thousands of files.
    std::string name = "/dev/shm/umwelt-host-XXXXXX";
    if (!::mkdtemp(name.data())) {
      name = (std::filesystem::temp_directory_path() / "umwelt-host-XXXXXX").string();
      if (!::mkdtemp(name.data())) throw std::filesystem::filesystem_error(name, {});
    }
    root_ = name;
  }
  ~Machine() { std::filesystem::remove_all(root_); }
  std::string root() const { return root_.string(); }
  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }

 private:
  std::filesystem::path root_;
};

TEST(HostReader, ReadsThisMachine) {
  auto reader = Reader::open();
  ASSERT_TRUE(reader);
  const auto facts = (*reader)->read(kAll);
  ASSERT_TRUE(facts) << facts.error().message();
  EXPECT_EQ(facts->cpus->online.count(), facts->cpus->cpuinfo.blocks.size());
  EXPECT_EQ(facts->cpus->online.count(), facts->cpus->topology.size());
  EXPECT_EQ(facts->cpus->online.count(), facts->stat->cpus.size());
  EXPECT_TRUE(facts->cpus->possible.contains(facts->cpus->online));
  EXPECT_GE(facts->cpus->kernel_max, *facts->cpus->possible.last());
  for (const CpuTopology& cpu : facts->cpus->topology) {
    EXPECT_TRUE(cpu.thread_siblings.test(cpu.id));
    EXPECT_TRUE(cpu.package_cpus.contains(cpu.thread_siblings));
  }
  EXPECT_GT(facts->meminfo->get("MemTotal").value(), 0u);
  EXPECT_GT(facts->uptime->uptime_ns, 0u);
  EXPECT_GT(facts->loadavg->total, 0u);
}

TEST(HostReader, LeavesOutWhatWasNotAskedFor) {
  auto reader = Reader::open();
  const auto facts = (*reader)->read(kMeminfo);
  ASSERT_TRUE(facts);
  EXPECT_TRUE(facts->meminfo);
  EXPECT_FALSE(facts->cpus);
  EXPECT_FALSE(facts->stat);
  EXPECT_FALSE(facts->uptime);
}

TEST(HostReader, SharesOneReadingWithinATick) {
  const Machine machine;
  machine.write("proc/uptime", "1.00 2.00\n");
  machine.write("proc/meminfo", "MemTotal: 1 kB\n");
  auto reader = Reader::open(machine.root());
  std::shared_ptr<const Meminfo> first;
  std::chrono::steady_clock::duration took = Reader::kTick;
  // On a busy machine some are not within a tick.
  for (int i = 0; i < 1000 && took >= Reader::kTick; ++i) {
    std::this_thread::sleep_for(2 * Reader::kTick);
    const auto begin = std::chrono::steady_clock::now();
    first = (*reader)->read(kMeminfo)->meminfo;
    const auto again = (*reader)->read(kMeminfo)->meminfo;
    took = std::chrono::steady_clock::now() - begin;
    if (took < Reader::kTick) {
      EXPECT_EQ(again, first);
    }
  }
  ASSERT_LT(took, Reader::kTick);
  std::this_thread::sleep_for(2 * Reader::kTick);
  machine.write("proc/meminfo", "MemTotal: 2 kB\n");
  const auto second = (*reader)->read(kMeminfo)->meminfo;
  EXPECT_EQ(first->get("MemTotal"), 1024u);
  EXPECT_EQ(second->get("MemTotal"), 2048u);
}

TEST(HostReader, ReportsWhatIsMissing) {
  const Machine machine;
  auto reader = Reader::open(machine.root());
  ASSERT_TRUE(reader);
  EXPECT_EQ((*reader)->read(kMeminfo).error().code, ENOENT);
  EXPECT_TRUE((*reader)->read(kSwaps)->swaps->empty());
  EXPECT_EQ(Reader::open(machine.root() + "/none").error().code, ENOENT);
}

TEST(HostReader, WithoutSysfsTheCpusAreThoseOfCpuinfo) {
  const Machine machine;
  machine.write("proc/cpuinfo", "processor\t: 0\n\nprocessor\t: 2\n\n");
  auto reader = Reader::open(machine.root());
  const auto facts = (*reader)->read(kCpus);
  ASSERT_TRUE(facts);
  EXPECT_EQ(facts->cpus->online.list(), "0,2");
  EXPECT_EQ(facts->cpus->possible.list(), "0,2");
  EXPECT_EQ(facts->cpus->kernel_max, 2u);
  EXPECT_TRUE(facts->cpus->nodes.empty());
}

TEST(HostReader, NoticesThatTheOnlineCpusChange) {
  const Machine machine;
  const auto plug = [&](const char* online, const char* cpuinfo) {
    machine.write("proc/cpuinfo", cpuinfo);
    machine.write("sys/devices/system/cpu/online", online);
  };
  machine.write("sys/devices/system/cpu/possible", "0-3\n");
  machine.write("sys/devices/system/cpu/kernel_max", "63\n");
  plug("0-1\n", "processor\t: 0\n\nprocessor\t: 1\n\n");
  auto reader = Reader::open(machine.root());
  const auto before = (*reader)->read(kCpus)->cpus;
  EXPECT_EQ(before->online.list(), "0-1");
  EXPECT_EQ(before->kernel_max, 63u);
  EXPECT_EQ((*reader)->read(kCpus)->cpus, before);
  plug("0\n", "processor\t: 0\n\n");
  (*reader)->cpus_changed();
  EXPECT_EQ((*reader)->read(kCpus)->cpus->online.list(), "0");
  // Nobody says so: seen within a second.
  plug("0-1\n", "processor\t: 0\n\nprocessor\t: 1\n\n");
  std::this_thread::sleep_for(std::chrono::milliseconds(1050));
  EXPECT_EQ((*reader)->read(kCpus)->cpus->online.list(), "0-1");
}

TEST(HostReader, NoticesThatMemoryComesToANode) {
  const Machine machine;
  machine.write("proc/cpuinfo", "processor\t: 0\n\n");
  machine.write("sys/devices/system/cpu/online", "0\n");
  const std::string nodes = "sys/devices/system/node/";
  const auto plug = [&](const char* has_memory, const char* kib) {
    machine.write(nodes + "has_memory", has_memory);
    machine.write(nodes + "node1/meminfo", fmt::format("Node 1 MemTotal: {} kB\n", kib));
  };
  machine.write(nodes + "online", "0-1\n");
  machine.write(nodes + "node0/meminfo", "Node 0 MemTotal: 4096 kB\n");
  plug("0\n", "0");
  auto reader = Reader::open(machine.root());
  const auto before = (*reader)->read(kCpus)->cpus;
  ASSERT_EQ(before->nodes.size(), 2u);
  EXPECT_EQ(before->nodes[1].memory_bytes, 0u);
  plug("0-1\n", "8192");
  std::this_thread::sleep_for(std::chrono::milliseconds(1050));
  const auto after = (*reader)->read(kCpus)->cpus;
  EXPECT_EQ(after->nodes[1].memory_bytes, 8192u << 10);
  EXPECT_EQ((*reader)->read(kCpus)->cpus, after);
  // A node that had none of anything.
  machine.write(nodes + "online", "0-2\n");
  machine.write(nodes + "node2/meminfo", "Node 2 MemTotal: 0 kB\n");
  std::this_thread::sleep_for(std::chrono::milliseconds(1050));
  EXPECT_EQ((*reader)->read(kCpus)->cpus->nodes.size(), 3u);
}

TEST(HostReader, FiveHundredAndTwelveCpus) {
  const Machine machine;
  const fixtures::ManyCpus many(machine.root(), 512);
  many.write(many.all(), *CpuSet::parse("0-7"));
  auto reader = Reader::open(machine.root());
  const auto facts = (*reader)->read(kAll);
  ASSERT_TRUE(facts) << facts.error().message();
  const Cpus& cpus = *facts->cpus;
  EXPECT_EQ(cpus.online, many.all());
  EXPECT_EQ(cpus.possible.list(), "0-1023");
  EXPECT_EQ(cpus.kernel_max, 8191u);
  ASSERT_EQ(cpus.cpuinfo.blocks.size(), 512u);
  EXPECT_EQ(cpus.cpuinfo.blocks[511].processor, 511u);
  ASSERT_EQ(cpus.topology.size(), 512u);
  EXPECT_EQ(cpus.topology[300].physical_package_id, 0);
  EXPECT_EQ(cpus.topology[130].physical_package_id, 1);
  EXPECT_EQ(cpus.topology[130].core_id, 2);
  EXPECT_EQ(cpus.topology[130].thread_siblings.list(), "130,386");
  EXPECT_EQ(cpus.topology[130].package_cpus.count(), 256u);
  ASSERT_EQ(cpus.nodes.size(), 8u);
  EXPECT_EQ(cpus.nodes[1].cpus.list(), "32-63,288-319");
  ASSERT_EQ(facts->stat->cpus.size(), 512u);
  std::uint64_t user = 0;
  for (const auto& [id, ticks] : facts->stat->cpus) user += ticks.user;
  EXPECT_EQ(facts->stat->total.user, user);
  EXPECT_EQ(facts->stat->intr_columns, 4096u);
}

TEST(HostReader, RecordedMachines) {
  const std::string hosts =
      std::string(std::getenv("UMWELT_SOURCE_ROOT")) + "/tests/fixtures/hosts/";
  for (const char* name : {"v1-8cpu", "mixed-8cpu", "v2-8cpu"}) {
    auto reader = Reader::open(hosts + name);
    ASSERT_TRUE(reader) << name;
    const auto facts = (*reader)->read(kAll);
    ASSERT_TRUE(facts) << name << facts.error().message();
    EXPECT_EQ(facts->cpus->online.list(), "0-7");
    EXPECT_EQ(facts->cpus->cpuinfo.blocks.size(), 8u);
    ASSERT_EQ(facts->cpus->nodes.size(), 2u);
    EXPECT_EQ(facts->cpus->nodes[1].cpus.list(), "4-7");
    EXPECT_EQ(facts->stat->cpus.size(), 8u);
    ASSERT_EQ(facts->swaps->size(), 1u);
    EXPECT_EQ((*facts->swaps)[0].size_bytes, 1048572ULL * 1024);
    EXPECT_GT(facts->meminfo->get("MemTotal").value(), 1ULL << 30);
  }
}

TEST(HostReader, RecordedSixtyFourCpus) {
  auto reader = Reader::open(std::string(std::getenv("UMWELT_SOURCE_ROOT")) +
                             "/tests/fixtures/hosts/v2-64cpu");
  const auto facts = (*reader)->read(kAll | kInterrupts | kSoftirqs | kSchedstat);
  ASSERT_TRUE(facts) << facts.error().message();
  EXPECT_EQ(facts->cpus->online.list(), "0-63");
  EXPECT_EQ(facts->cpus->topology.size(), 64u);
  ASSERT_EQ(facts->cpus->nodes.size(), 4u);
  EXPECT_EQ(facts->cpus->nodes[3].cpus.list(), "48-63");
  EXPECT_EQ(facts->interrupts->cpus.size(), 64u);
  EXPECT_EQ(facts->schedstat->cpus.size(), 64u);
}

TEST(HostReader, ManyThreadsReadAtOnce) {
  auto reader = Reader::open();
  std::vector<std::jthread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        if (round % 50 == 0) (*reader)->cpus_changed();
        const auto facts = (*reader)->read(kAll);
        ASSERT_TRUE(facts);
        ASSERT_FALSE(facts->cpus->online.empty());
      }
    });
  }
}

}  // namespace
}  // namespace umwelt::host
