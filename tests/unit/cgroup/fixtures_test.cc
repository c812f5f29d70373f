// SPDX-License-Identifier: Apache-2.0
// The recorded machines in tests/fixtures/hosts through the production readers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/file.h"
#include "cgroup/reader.h"
#include "fixtures/many_cpus.h"
#include "tree.h"

namespace umwelt::cgroup {
namespace {

std::string hosts() {
  return std::string(std::getenv("UMWELT_SOURCE_ROOT")) + "/tests/fixtures/hosts";
}

Result<Reader> open_root(const std::string& root) {
  const std::string mountinfo = UMWELT_TRY(read_file(root + "/proc/self/mountinfo"));
  const std::string container = UMWELT_TRY(read_file(root + "/container.cgroup"));
  const Hierarchies hierarchies = UMWELT_TRY(Hierarchies::parse(mountinfo));
  const Paths paths = UMWELT_TRY(parse_proc_cgroup(container));
  return Reader::open(hierarchies, paths, root);
}

Result<Reader> open_recorded(const std::string& name) { return open_root(hosts() + "/" + name); }

State read_recorded(const std::string& name, const char* online) {
  auto reader = open_recorded(name);
  EXPECT_TRUE(reader) << name << ": " << reader.error().message();
  if (!reader) return {};
  const auto limits = reader->read_limits(*CpuSet::parse(online));
  EXPECT_TRUE(limits) << name << ": " << limits.error().message();
  auto state = reader->read(kMemory | kCpuTime | kTasks);
  EXPECT_TRUE(state) << name << ": " << state.error().message();
  return state ? *state : State();
}

std::uint64_t total_ns(const CpuTime& time) { return time.user_ns + time.nice_ns + time.system_ns; }

// What all of them have: see limit in tests/fixtures/make and workload.py.
void expect_the_container(const State& state) {
  EXPECT_EQ(state.limits.bandwidth, (Bandwidth{50000, 100000}));
  EXPECT_EQ(state.limits.memory_max_bytes, 256u << 20);
  EXPECT_EQ(state.limits.swap_max_bytes, 128u << 20);
  EXPECT_EQ(state.limits.pids_max, 100u);
  ASSERT_TRUE(state.tasks);
  EXPECT_EQ(state.tasks->total, 4u);
  EXPECT_EQ(state.tasks->processes, 2u);
  EXPECT_EQ(state.tasks->running, 1u);
  EXPECT_EQ(state.tasks->uninterruptible, 0u);
  ASSERT_TRUE(state.memory);
  const Memory& memory = *state.memory;
  EXPECT_GE(memory.stat.anon, 24u << 20);
  EXPECT_GE(memory.stat.shmem, 4u << 20);
  EXPECT_GE(memory.stat.file, memory.stat.shmem);
  EXPECT_GE(memory.stat.inactive_file, 6u << 20);
  EXPECT_TRUE(memory.stat.kernel);
  EXPECT_GE(memory.usage_bytes, memory.stat.anon + memory.stat.file + *memory.stat.kernel);
  EXPECT_EQ(memory.limit_usage_bytes, memory.usage_bytes);
  EXPECT_EQ(memory.limit_inactive_file, memory.stat.inactive_file);
}

TEST(Fixtures, HybridTwoCpus) {
  const State state = read_recorded("hybrid-2cpu", "0-1");
  expect_the_container(state);
  EXPECT_EQ(state.limits.cpus.list(), "1");
  EXPECT_EQ(state.limits.mems.list(), "0");
  EXPECT_EQ(state.memory->usage_bytes, 48451584u);
  EXPECT_EQ(state.memory->stat.anon, 37359616u);
  EXPECT_EQ(state.memory->stat.kernel, 606208u);
  const CpuTime& time = *state.cpu_time;
  ASSERT_EQ(time.per_cpu.size(), 2u);
  EXPECT_EQ(time.per_cpu[0].second, 161725u);
  EXPECT_EQ(time.per_cpu[1].second, 1058076661u);
  EXPECT_EQ(total_ns(time), 161725u + 1058076661u);
  // 40 of 105 ticks
  EXPECT_NEAR(static_cast<double>(time.user_ns), 1058238386.0 * 40 / 105, 2);
  EXPECT_EQ(time.throttled_ns, 0u);
}

TEST(Fixtures, V1EightCpus) {
  const State state = read_recorded("v1-8cpu", "0-7");
  expect_the_container(state);
  EXPECT_EQ(state.limits.cpus.list(), "1,4-5");
  EXPECT_EQ(state.limits.mems.list(), "0-1");
  EXPECT_EQ(state.memory->stat.anon_thp, 25165824u);
  EXPECT_EQ(state.cpu_time->throttled_ns, 29502245112u);
  EXPECT_EQ(total_ns(*state.cpu_time), 5427111607u + 25151563125u + 66351193u);
}

TEST(Fixtures, V2EightCpus) {
  const State state = read_recorded("v2-8cpu", "0-7");
  expect_the_container(state);
  EXPECT_EQ(state.limits.cpus.list(), "1,4-5");
  EXPECT_EQ(state.memory->usage_bytes, 59518976u);
  EXPECT_EQ(state.memory->stat.file, 19623936u);
  EXPECT_EQ(state.memory->stat.file_mapped, 8810496u);
  EXPECT_EQ(state.memory->stat.kernel_stack, 49152u);
  EXPECT_EQ(state.memory->stat.slab_reclaimable, 263208u);
  EXPECT_EQ(state.memory->limit_slab_reclaimable, 263208u);
  EXPECT_NEAR(static_cast<double>(state.cpu_time->user_ns), 7360286000.0, 2000.0);
  EXPECT_NEAR(static_cast<double>(state.cpu_time->system_ns), 7530046000.0, 2000.0);
  EXPECT_EQ(total_ns(*state.cpu_time), 14890333000u);
  EXPECT_EQ(state.cpu_time->throttled_ns, 14325805000u);
  EXPECT_TRUE(state.cpu_time->per_cpu.empty());
}

TEST(Fixtures, V2SixtyFourCpus) {
  const State state = read_recorded("v2-64cpu", "0-63");
  expect_the_container(state);
  EXPECT_EQ(state.limits.cpus.list(), "3,17-20,60");
  EXPECT_EQ(state.limits.mems.list(), "0-3");
}

TEST(Fixtures, MixedControllers) {
  const State state = read_recorded("mixed-8cpu", "0-7");
  expect_the_container(state);
  EXPECT_EQ(state.limits.cpus.list(), "1,4-5");
  EXPECT_EQ(state.memory->usage_bytes, 58277888u);            // v2
  EXPECT_EQ(state.cpu_time->per_cpu[4].second, 8290490019u);  // v1
}

TEST(Fixtures, EveryRecordingIsRead) {
  for (const auto& entry : std::filesystem::directory_iterator(hosts())) {
    const std::string name = entry.path().filename();
    const auto online = read_file(entry.path().string() + "/sys/devices/system/cpu/online");
    ASSERT_TRUE(online) << name;
    expect_the_container(read_recorded(name, online->c_str()));
  }
}

TEST(Fixtures, FiveHundredAndTwelveCpus) {
  const Tree tree;
  const CpuSet cpuset = *CpuSet::parse("7,130-141,500-511");
  fixtures::ManyCpus machine(tree.root(), 512);
  machine.write(cpuset, *CpuSet::parse("2"));
  auto reader = open_root(tree.root());
  ASSERT_TRUE(reader) << reader.error().message();
  const auto limits = reader->read_limits(machine.all());
  ASSERT_TRUE(limits) << limits.error().message();
  EXPECT_EQ(limits->cpus, cpuset);
  EXPECT_EQ(limits->mems.list(), "2");
  EXPECT_EQ(limits->bandwidth, (Bandwidth{1250000, 100000}));
  EXPECT_EQ(limits->memory_max_bytes, 64ULL << 30);
  EXPECT_EQ(reader->read(kMemory | kCpuTime | kTasks)->memory->usage_bytes, 10ULL << 30);
}

TEST(Fixtures, LimitFilesAreThere) {
  auto reader = open_recorded("v2-8cpu");
  const std::string top = hosts() + "/v2-8cpu/sys/fs/cgroup/";
  const auto files = reader->limit_files().value();
  const auto has = [&](const std::string& path) {
    return std::count(files.begin(), files.end(), top + path) == 1;
  };
  EXPECT_TRUE(has("umwelt-test-fixture/web/memory.max"));
  EXPECT_TRUE(has("umwelt-test-fixture/memory.max"));
  EXPECT_TRUE(has("umwelt-test-fixture/web/cpu.max"));
  EXPECT_TRUE(has("umwelt-test-fixture/cpuset.cpus"));
  EXPECT_TRUE(has("cgroup.subtree_control"));
  EXPECT_FALSE(has("memory.max"));
  for (const std::string& path : files) EXPECT_TRUE(std::filesystem::exists(path)) << path;
}

}  // namespace
}  // namespace umwelt::cgroup
