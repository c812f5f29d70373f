// SPDX-License-Identifier: Apache-2.0
// The reader on the running kernel, whatever hierarchies it has.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "cgroup/reader.h"
#include "real_cgroup.h"

namespace umwelt::cgroup {
namespace {

CpuSet online() { return *CpuSet::parse(*read_file("/sys/devices/system/cpu/online")); }

void spin(std::chrono::milliseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
  }
}

TEST(RealKernel, ReadsTheLimitsThatWereSet) {
  RealCgroup cgroup("/inner");
  REQUIRE_REAL_CGROUP(cgroup);
  const unsigned last = *online().last();
  ASSERT_TRUE(cgroup.write("cpuset", "cpuset.cpus", std::to_string(last)));
  const bool v2 = cgroup.v2("memory");
  ASSERT_TRUE(cgroup.write("memory", v2 ? "memory.max" : "memory.limit_in_bytes", "268435456", 1));
  if (cgroup.v2("cpu")) {
    ASSERT_TRUE(cgroup.write("cpu", "cpu.max", "50000 100000", 1));
  } else {
    ASSERT_TRUE(cgroup.write("cpu", "cpu.cfs_quota_us", "50000", 1));
  }
  ASSERT_TRUE(cgroup.write("pids", "pids.max", "77", 1));

  auto reader = Reader::open(cgroup.hierarchies, cgroup.paths);
  ASSERT_TRUE(reader) << reader.error().message();
  const auto limits = reader->read_limits(online());
  ASSERT_TRUE(limits) << limits.error().message();
  EXPECT_EQ(limits->cpus.list(), std::to_string(last));
  EXPECT_FALSE(limits->mems.empty());
  EXPECT_EQ(limits->bandwidth, (Bandwidth{50000, 100000}));
  EXPECT_EQ(limits->memory_max_bytes, 268435456u);
  EXPECT_EQ(limits->pids_max, 77u);
}

TEST(RealKernel, TellsWhetherTheSetsChanged) {
  RealCgroup cgroup;
  REQUIRE_REAL_CGROUP(cgroup);
  const CpuSet all = online();
  if (all.count() < 2) GTEST_SKIP() << "needs two CPUs";
  auto reader = Reader::open(cgroup.hierarchies, cgroup.paths);
  ASSERT_TRUE(reader) << reader.error().message();
  ASSERT_TRUE(reader->read_limits(all));
  EXPECT_FALSE(reader->sets_changed(all).value_or(true));
  ASSERT_TRUE(cgroup.write("cpuset", "cpuset.cpus", std::to_string(*all.last())));
  EXPECT_TRUE(reader->sets_changed(all).value_or(false));
  ASSERT_TRUE(reader->read_limits(all));
  EXPECT_FALSE(reader->sets_changed(all).value_or(true));
  cgroup.remove();
  EXPECT_TRUE(reader->sets_changed(all).value_or(false));
}

TEST(RealKernel, BusyLoopShowsAsUserTime) {
  RealCgroup cgroup;
  REQUIRE_REAL_CGROUP(cgroup);
  auto reader = Reader::open(cgroup.hierarchies, cgroup.paths);
  ASSERT_TRUE(reader) << reader.error().message();
  const auto before = reader->read(kCpuTime)->cpu_time;
  const pid_t child = cgroup.start([] {
    const auto used_ns = [] {
      timespec used{};
      ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
      return used.tv_sec * 1'000'000'000 + used.tv_nsec;
    };
    const auto end_ns = used_ns() + 500'000'000;
    while (used_ns() < end_ns) spin(std::chrono::milliseconds(10));
  });
  ASSERT_EQ(cgroup.wait(child), 0);
  const auto after = reader->read(kCpuTime)->cpu_time;
  ASSERT_TRUE(after);
  const double used_s = 1e-9 * static_cast<double>(after->user_ns + after->nice_ns +
                                                   after->system_ns - before->user_ns);
  EXPECT_GT(used_s, 0.5);
  EXPECT_LT(used_s, 0.6);
  std::uint64_t sum = 0;
  for (const auto& [id, ns] : after->per_cpu) sum += ns;
  if (!cgroup.v2("cpuacct")) {
    EXPECT_EQ(sum, after->user_ns + after->nice_ns + after->system_ns);
  }
}

TEST(RealKernel, RemovedAndMadeAgainIsAnotherCgroup) {
  auto first = std::make_unique<RealCgroup>();
  REQUIRE_REAL_CGROUP(*first);
  auto reader = Reader::open(first->hierarchies, first->paths);
  ASSERT_TRUE(reader);
  ASSERT_TRUE(reader->read(kMemory | kCpuTime | kTasks));
  ASSERT_TRUE(reader->read_limits(online()));
  const std::uint64_t inode = reader->inode();
  first->remove();
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(reader->read_limits(online()).error().code, ENODEV);
    for (const unsigned part : {kMemory, kCpuTime, kTasks, kIo}) {
      const auto state = reader->read(part);
      ASSERT_FALSE(state) << "part " << part;
      EXPECT_EQ(state.error().code, ENODEV) << "part " << part;
    }
    if (round == 1) break;
    first = std::make_unique<RealCgroup>();
  }
  auto second = Reader::open(first->hierarchies, first->paths);
  ASSERT_TRUE(second);
  EXPECT_NE(second->inode(), inode);
}

TEST(RealKernel, CountsTasksByState) {
  RealCgroup cgroup("/inner");
  REQUIRE_REAL_CGROUP(cgroup);
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i)
    children.push_back(cgroup.start([] {
      for (;;) ::pause();
    }));
  children.push_back(cgroup.start([] {
    std::thread second([] { spin(std::chrono::seconds(60)); });
    second.join();
  }));
  Paths paths = cgroup.paths;
  for (auto& [controller, path] : paths) path.resize(path.rfind('/'));
  auto reader = Reader::open(cgroup.hierarchies, paths);
  ASSERT_TRUE(reader) << reader.error().message();
  Tasks tasks;
  std::size_t threads = 0;  // 5, and what the thread sanitizer adds to each process
  for (int attempt = 0; attempt < 3000; ++attempt) {
    threads = 0;
    for (const pid_t pid : children)
      threads += read_names_at(AT_FDCWD, "/proc/" + std::to_string(pid) + "/task").value().size();
    const auto state = reader->read(kTasks);
    ASSERT_TRUE(state) << state.error().message();
    tasks = *state->tasks;
    if (threads >= 5 && tasks.total == threads && tasks.running == 1) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_GE(threads, 5u);
  EXPECT_EQ(tasks.total, threads);
  EXPECT_EQ(tasks.processes, 4u);
  EXPECT_EQ(tasks.running, 1u);
  EXPECT_EQ(tasks.uninterruptible, 0u);
}

TEST(RealKernel, MemoryOfTheLimitingAncestor) {
  RealCgroup cgroup("/inner");
  REQUIRE_REAL_CGROUP(cgroup);
  const bool v2 = cgroup.v2("memory");
  ASSERT_TRUE(cgroup.write("memory", v2 ? "memory.max" : "memory.limit_in_bytes", "64M", 1));
  cgroup.start([] {
    constexpr std::size_t kSize = 8 << 20;
    auto* bytes = static_cast<char*>(
        ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (std::size_t i = 0; i < kSize; i += 4096) bytes[i] = 1;
    for (;;) ::pause();
  });
  auto reader = Reader::open(cgroup.hierarchies, cgroup.paths);
  ASSERT_TRUE(reader);
  Memory memory;
  for (int attempt = 0; attempt < 3000; ++attempt) {
    const auto state = reader->read(kMemory);
    ASSERT_TRUE(state) << state.error().message();
    memory = *state->memory;
    if (memory.stat.anon >= 8 << 20) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_GE(memory.stat.anon, 8u << 20);
  EXPECT_LE(memory.stat.anon, 12u << 20);
  EXPECT_GE(memory.usage_bytes, memory.stat.anon);
  EXPECT_GE(memory.limit_usage_bytes + (1 << 20), memory.usage_bytes);
  EXPECT_LE(memory.limit_usage_bytes, 64u << 20);
}

TEST(RealKernel, AControllerIsDisabledAndEnabledAgain) {
  RealCgroup cgroup("/inner");
  REQUIRE_REAL_CGROUP(cgroup);
  if (!cgroup.v2("memory")) GTEST_SKIP() << "needs cgroup2: it has no memory controller here";
  auto reader = Reader::open(cgroup.hierarchies, cgroup.paths);
  ASSERT_TRUE(reader) << reader.error().message();
  cgroup.start([] {
    for (;;) ::pause();
  });
  const auto usage = [&] { return reader->read(kMemory)->memory->usage_bytes; };
  for (int attempt = 0; attempt < 3000 && usage() == 0; ++attempt)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_GT(usage(), 0u);
  ASSERT_TRUE(cgroup.write("memory", "cgroup.subtree_control", "-memory", 1));
  EXPECT_EQ(usage(), 0u);
  ASSERT_TRUE(reader->read_limits(online()));
  ASSERT_TRUE(cgroup.write("memory", "cgroup.subtree_control", "+memory", 1));
  ASSERT_TRUE(cgroup.write("memory", "memory.max", "64M"));
  EXPECT_EQ(reader->read_limits(online())->memory_max_bytes, 64u << 20);
  const auto state = reader->read(kMemory | kCpuTime | kTasks);
  ASSERT_TRUE(state) << state.error().message();
  EXPECT_EQ(state->tasks->total, 1u);
}

TEST(RealKernel, DirectIoIsCounted) {
  RealCgroup cgroup;
  REQUIRE_REAL_CGROUP(cgroup);
  std::string path = "/var/tmp/umwelt-io-XXXXXX";
  const UniqueFd file(::mkostemp(path.data(), O_DIRECT));
  if (!file) GTEST_SKIP() << "needs O_DIRECT in /var/tmp: " << std::strerror(errno);
  ::unlink(path.c_str());
  struct stat status {};
  ASSERT_EQ(::fstat(file.get(), &status), 0);
  if (major(status.st_dev) == 0) GTEST_SKIP() << "needs a block device: /var/tmp is on none";
  if (!cgroup.v2("blkio")) {
    // See cgroup/io.h: a limit that was set once makes the kernel count.
    const std::string device =
        std::to_string(major(status.st_dev)) + ":" + std::to_string(minor(status.st_dev));
    for (const char* limit : {" 9223372036854775807", " 0"}) {
      if (!cgroup.write("blkio", "blkio.throttle.read_bps_device", device + limit))
        GTEST_SKIP() << "needs throttling of the block device of /var/tmp";
    }
  }
  auto reader = Reader::open(cgroup.hierarchies, cgroup.paths);
  ASSERT_TRUE(reader) << reader.error().message();
  constexpr std::size_t kSize = 1 << 20;
  const pid_t child = cgroup.start([&] {
    void* buffer = nullptr;
    if (::posix_memalign(&buffer, 4096, kSize) != 0) ::_exit(1);
    std::memset(buffer, 'x', kSize);
    if (::pwrite(file.get(), buffer, kSize, 0) != kSize) ::_exit(2);
    if (::pread(file.get(), buffer, kSize, 0) != kSize) ::_exit(3);
  });
  ASSERT_EQ(cgroup.wait(child), 0);
  const auto state = reader->read(kIo);
  ASSERT_TRUE(state) << state.error().message();
  std::uint64_t read_bytes = 0, written_bytes = 0;
  for (const DeviceIo& io : *state->io) {
    read_bytes += io.read_bytes;
    written_bytes += io.written_bytes;
  }
  EXPECT_GE(read_bytes, kSize);
  EXPECT_GE(written_bytes, kSize);
  EXPECT_LE(written_bytes, 2 * kSize);
}

TEST(RealKernel, PressureOfTheCgroup) {
  RealCgroup cgroup;
  REQUIRE_REAL_CGROUP(cgroup);
  if (::access("/proc/pressure/cpu", F_OK) != 0) GTEST_SKIP() << "needs PSI: switched off";
  auto reader = Reader::open(cgroup.hierarchies, cgroup.paths);
  ASSERT_TRUE(reader) << reader.error().message();
  const auto state = reader->read(kPressure);
  ASSERT_TRUE(state) << state.error().message();
  for (const auto& text : {state->pressure->cpu, state->pressure->memory, state->pressure->io}) {
    ASSERT_TRUE(text);
    EXPECT_TRUE(text->starts_with("some avg10=")) << *text;
  }
  cgroup.remove();
  EXPECT_EQ(reader->read(kPressure).error().code, ENODEV);
  EXPECT_EQ(reader->read(kIo).error().code, ENODEV);
}

}  // namespace
}  // namespace umwelt::cgroup
