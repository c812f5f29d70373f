// SPDX-License-Identifier: Apache-2.0
#include "container/container.h"

#include <atomic>

#include "kernel_fixture.h"

namespace umwelt::container {
namespace {

constexpr std::uint64_t kMiB = 1U << 20;

class ContainerTest : public HostTest {
 protected:
  std::shared_ptr<Container> open(const TestCgroup& cgroup,
                                  std::uint64_t limits_age = Container::kUntilRefresh) {
    Record record;
    record.id = "test";
    record.cgroup_paths = cgroup.paths();
    record.start_boottime_ns = boottime_ns();
    record.start_realtime_s = ::time(nullptr);
    auto container = HostTest::open(std::move(record), limits_age);
    EXPECT_TRUE(container) << container.error().message();
    return container ? *container : nullptr;
  }
};

std::uint64_t used_ns(const view::Resources& resources) {
  std::uint64_t sum = 0;
  for (const view::ShownCpuTime& time : resources.cpu_times)
    sum += time.user_ns + time.nice_ns + time.system_ns;
  return sum;
}

TEST_F(ContainerTest, NoSuchCgroup) {
  TestCgroup cgroup(hierarchies_, "-gone");
  Record record;
  record.id = "test";
  record.cgroup_paths = cgroup.paths();
  cgroup.remove();
  const auto container = HostTest::open(record);
  ASSERT_FALSE(container);
  EXPECT_EQ(container.error().code, ENODEV);
}

TEST_F(ContainerTest, LimitsAreThoseOfTheLastRefresh) {
  TestCgroup cgroup(hierarchies_, "-limits");
  cgroup.set_memory_max(64 * kMiB);
  const auto container = open(cgroup);
  ASSERT_NE(container, nullptr);
  EXPECT_EQ(container->resources(view::kNeedMemory)->memory.total, 64 * kMiB);
  EXPECT_FALSE(container->refresh().value());
  EXPECT_EQ(container->generation(), 1U);

  cgroup.set_memory_max(32 * kMiB);
  EXPECT_EQ(container->resources(view::kNeedMemory)->memory.total, 64 * kMiB);
  unsigned notices = 0;
  EXPECT_TRUE(container
                  ->refresh([&] {
                    ++notices;
                    EXPECT_EQ(container->generation(), 2U);
                    EXPECT_EQ(container->resources(view::kNeedMemory)->memory.total, 32 * kMiB);
                  })
                  .value());
  EXPECT_FALSE(container->refresh([&] { ++notices; }).value());
  EXPECT_EQ(notices, 1U);
}

TEST_F(ContainerTest, LimitsOfALimitedAgeAreReadAgainByReads) {
  TestCgroup cgroup(hierarchies_, "-age");
  cgroup.set_memory_max(64 * kMiB);
  const auto container = open(cgroup, 10'000'000);
  ASSERT_NE(container, nullptr);
  EXPECT_EQ(container->resources(view::kNeedMemory)->memory.total, 64 * kMiB);
  cgroup.set_memory_max(32 * kMiB);
  std::this_thread::sleep_for(std::chrono::milliseconds(15));
  EXPECT_EQ(container->resources(view::kNeedMemory)->memory.total, 32 * kMiB);
  EXPECT_EQ(container->generation(), 2U);
}

TEST_F(ContainerTest, ARemovedCgroupIsEnodevForEver) {
  TestCgroup cgroup(hierarchies_, "-removed");
  const auto container = open(cgroup);
  ASSERT_NE(container, nullptr);
  const std::string name = cgroup.path().substr(cgroup.path().rfind('-'));
  cgroup.remove();
  TestCgroup again(hierarchies_, name);
  for (const unsigned needs :
       {unsigned{view::kNeedMemory}, unsigned{view::kNeedCpuTime}, unsigned{view::kNeedLoad}}) {
    const auto resources = container->resources(needs);
    ASSERT_FALSE(resources) << needs;
    EXPECT_EQ(resources.error().code, ENODEV) << resources.error().message();
  }
  EXPECT_TRUE(container->gone());
  const auto refreshed = container->refresh();
  ASSERT_FALSE(refreshed);
  EXPECT_EQ(refreshed.error().code, ENODEV);
}

TEST_F(ContainerTest, TheStartIsByTheClockAsItIsNow) {
  TestCgroup cgroup(hierarchies_, "-clock");
  Record record;
  record.id = "test";
  record.cgroup_paths = cgroup.paths();
  record.start_boottime_ns = boottime_ns() - 5'000'000'000U;
  const std::int64_t start_s = ::time(nullptr) - 5;
  // Registered before the clock was set.
  record.start_realtime_s = 1000;
  record.time_namespace = true;
  const auto container = HostTest::open(std::move(record));
  ASSERT_TRUE(container) << container.error().message();
  const auto shown = (*container)->resources(view::kNeedHostStat);
  ASSERT_TRUE(shown);
  EXPECT_NEAR(static_cast<double>(shown->uptime.btime_s), static_cast<double>(start_s), 1);
  EXPECT_EQ(shown->identity.start_realtime_s, shown->uptime.btime_s);
  EXPECT_FALSE((*container)->changed_unannounced().value());
}

TEST_F(ContainerTest, CpuTimeIsTheContainersAndNeverGoesBack) {
  TestCgroup cgroup(hierarchies_, "-cpu");
  const auto container = open(cgroup);
  ASSERT_NE(container, nullptr);
  EXPECT_LT(used_ns(*container->resources(view::kNeedCpuTime)), 50'000'000U);
  const Child busy(0, [&] {
    if (!cgroup.attach(::getpid())) return false;
    burn_cpu(std::chrono::milliseconds(100));
    return true;
  });
  ASSERT_TRUE(busy.ok());
  std::uint64_t last = 0;
  for (int i = 0; i < 50; ++i) {
    const std::uint64_t used = used_ns(*container->resources(view::kNeedCpuTime));
    EXPECT_GE(used, last);
    last = used;
  }
  EXPECT_GT(last, 80'000'000U);
  EXPECT_LT(last, 200'000'000U);
}

TEST_F(ContainerTest, LoadCountsItsRunningTasks) {
  TestCgroup cgroup(hierarchies_, "-load");
  const auto container = open(cgroup);
  ASSERT_NE(container, nullptr);
  // Attached from outside, and then busy until it is killed.
  const Child busy(0, [] {
    if (::fork() == 0)
      for (;;) {
      }
    return true;
  });
  const Child idle(0, [&] { return cgroup.attach(::getpid()); });
  const auto children = read_file("/proc/" + std::to_string(busy.pid()) + "/task/" +
                                  std::to_string(busy.pid()) + "/children");
  if (!children) GTEST_SKIP() << "needs CONFIG_PROC_CHILDREN";
  const pid_t spinner = std::stoi(*children);
  ASSERT_TRUE(cgroup.attach(spinner));
  while (read_process_stat(idle.pid())->state == 'R') std::this_thread::yield();
  const auto resources = container->resources(view::kNeedLoad | view::kNeedTasks);
  std::size_t threads = 0;  // 2, and what the thread sanitizer adds to a process
  for (const pid_t pid : {spinner, idle.pid()})
    threads += read_names_at(AT_FDCWD, "/proc/" + std::to_string(pid) + "/task").value().size();
  ::kill(spinner, SIGKILL);
  ASSERT_TRUE(resources) << resources.error().message();
  EXPECT_GE(threads, 2U);
  EXPECT_EQ(resources->load.total, threads);
  // And who reads.
  EXPECT_EQ(resources->load.running, 2U);
  EXPECT_EQ(resources->procs_running, 2U);
}

TEST_F(ContainerTest, ReadersRefreshesAndTicksAtOnce) {
  TestCgroup cgroup(hierarchies_, "-threads");
  cgroup.set_memory_max(64 * kMiB);
  const auto container = open(cgroup);
  ASSERT_NE(container, nullptr);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      while (!stop) {
        const auto resources = container->resources(~0U);
        ASSERT_TRUE(resources) << resources.error().message();
        ASSERT_TRUE(resources->memory.total == 64 * kMiB || resources->memory.total == 32 * kMiB);
      }
    });
  for (int i = 0; i < 100; ++i) {
    cgroup.set_memory_max((i % 2 == 0 ? 32 : 64) * kMiB);
    EXPECT_TRUE(container->refresh().value());
    container->tick();
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(container->generation(), 101U);
}

}  // namespace
}  // namespace umwelt::container
