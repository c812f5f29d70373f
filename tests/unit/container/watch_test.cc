// SPDX-License-Identifier: Apache-2.0
#include "container/watch.h"

#include <algorithm>
#include <atomic>

#include "kernel_fixture.h"

namespace umwelt::container {
namespace {

constexpr std::uint64_t kMiB = 1U << 20;
constexpr std::chrono::milliseconds kPromptly{50};
// What the timer finds takes a second; give a loaded machine some more.
constexpr std::chrono::milliseconds kReconciled{30000};

class WatchTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    registry_ = std::make_unique<Registry>(folder_ + "/records", hierarchies_, host_);
    auto watch = Watch::start(*registry_, host_, [this](const Watch::ContainerPtr& container) {
      if (slow_) std::this_thread::sleep_for(std::chrono::milliseconds(200));
      ++changes_;
      generation_seen_ = container->generation();
    });
    ASSERT_TRUE(watch) << watch.error().message();
    watch_ = std::move(*watch);
    ASSERT_TRUE(registry_->load());
  }
  void TearDown() override {
    watch_.reset();
    HostTest::TearDown();
  }
  Watch::ContainerPtr add(const TestCgroup& cgroup, const std::string& id = "test",
                          pid_t init = 0) {
    Record record;
    record.id = id;
    record.cgroup_paths = cgroup.paths();
    record.init_pid = init;
    auto container = registry_->add(std::move(record));
    EXPECT_TRUE(container) << container.error().message();
    return container ? *container : nullptr;
  }
  // Lets the thread do what the registration gave it to do.
  static void settle() { std::this_thread::sleep_for(std::chrono::milliseconds(30)); }

  std::unique_ptr<Registry> registry_;
  std::unique_ptr<Watch> watch_;
  std::atomic<bool> slow_{false};
  std::atomic<unsigned> changes_{0};
  std::atomic<std::uint64_t> generation_seen_{0};
};

unsigned inotify_watches() {
  unsigned count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fdinfo")) {
    const auto text = read_file(entry.path().string());
    for (std::size_t at = 0; text && (at = text->find("inotify wd:", at)) != std::string::npos;
         ++at)
      ++count;
  }
  return count;
}

TEST_F(WatchTest, AWriteToALimitIsNoticedPromptly) {
  TestCgroup cgroup(hierarchies_, "-limit");
  cgroup.set_memory_max(64 * kMiB);
  const auto container = add(cgroup);
  settle();
  ASSERT_EQ(changes_, 0U);
  // The best of some: a machine under load may keep any thread waiting.
  std::chrono::milliseconds best{1000};
  for (unsigned round = 1; round <= 10; ++round) {
    cgroup.set_memory_max((64 + round) * kMiB);
    const auto took = wait_until([&] { return changes_ >= round; });
    ASSERT_TRUE(took);
    best = std::min(best, *took);
  }
  EXPECT_LE(best, kPromptly);
  EXPECT_EQ(generation_seen_, 11U);
  EXPECT_EQ(container->resources(view::kNeedMemory)->memory.total, 74 * kMiB);
  EXPECT_EQ(changes_, 10U);
}

TEST_F(WatchTest, AnAncestorsLimitIsNoticedByAllBelow) {
  TestCgroup parent(hierarchies_, "-parent"), one(hierarchies_, "-parent/one"),
      two(hierarchies_, "-parent/two");
  if (parent.v1("memory")) parent.write("memory", "memory.use_hierarchy", "1");
  const auto a = add(one, "one");
  const auto b = add(two, "two");
  settle();
  parent.set_memory_max(48 * kMiB);
  ASSERT_TRUE(wait_until([&] { return changes_ >= 2; }));
  EXPECT_EQ(a->resources(view::kNeedMemory)->memory.total, 48 * kMiB);
  EXPECT_EQ(b->resources(view::kNeedMemory)->memory.total, 48 * kMiB);
}

TEST_F(WatchTest, AChangeBeforeTheWatchesStoodIsNoticed) {
  TestCgroup cgroup(hierarchies_, "-early");
  const auto container = add(cgroup);
  cgroup.set_memory_max(64 * kMiB);
  EXPECT_TRUE(wait_until(
      [&] { return container->resources(view::kNeedMemory)->memory.total == 64 * kMiB; }));
}

TEST_F(WatchTest, AWriteThatChangesNothingIsNoChange) {
  TestCgroup cgroup(hierarchies_, "-same");
  cgroup.set_memory_max(64 * kMiB);
  add(cgroup);
  settle();
  for (int i = 0; i < 5; ++i) cgroup.set_memory_max(64 * kMiB);
  settle();
  EXPECT_EQ(changes_, 0U);
}

TEST_F(WatchTest, RefreshWaitsForTheNoticeThatIsUnderWay) {
  TestCgroup cgroup(hierarchies_, "-wait");
  const auto container = add(cgroup);
  settle();
  slow_ = true;
  cgroup.set_memory_max(64 * kMiB);
  ASSERT_TRUE(wait_until([&] { return container->generation() == 2; }));
  // By now the watch's thread, or this one, is in the callback.
  EXPECT_TRUE(watch_->refresh(container));
  EXPECT_EQ(changes_, 1U);
}

TEST_F(WatchTest, TheEndOfTheInitProcessUnregisters) {
  TestCgroup cgroup(hierarchies_, "-end");
  Child init;
  add(cgroup, "ends", init.pid());
  add(cgroup, "stays", ::getpid());
  settle();
  EXPECT_NE(registry_->find("ends"), nullptr);
  init.kill();
  const auto took = wait_until([&] { return registry_->find("ends") == nullptr; });
  ASSERT_TRUE(took);
  EXPECT_LT(*took, std::chrono::milliseconds(900)) << "not only found by the timer";
  EXPECT_NE(registry_->find("stays"), nullptr);
  // Its record a moment after it.
  EXPECT_TRUE(wait_until([&] { return !std::filesystem::exists(folder_ + "/records/ends.json"); }));
}

TEST_F(WatchTest, TheEndOfTheCgroupUnregisters) {
  TestCgroup cgroup(hierarchies_, "-vanish");
  add(cgroup);
  settle();
  cgroup.remove();
  EXPECT_TRUE(wait_until([&] { return registry_->find("test") == nullptr; }, kReconciled));
}

TEST_F(WatchTest, NothingIsLeftOfARemovedContainer) {
  const unsigned before = inotify_watches();
  TestCgroup parent(hierarchies_, "-shared"), one(hierarchies_, "-shared/one"),
      two(hierarchies_, "-shared/two");
  add(one, "one");
  const unsigned with_one = inotify_watches();
  EXPECT_GT(with_one, before);
  add(two, "two");
  // The ancestors' files are shared.
  EXPECT_LT(inotify_watches() - with_one, with_one - before);
  ASSERT_TRUE(registry_->remove("one"));
  EXPECT_GT(inotify_watches(), before);
  ASSERT_TRUE(registry_->remove("two"));
  EXPECT_EQ(inotify_watches(), before);
}

TEST_F(WatchTest, ContainersComeAndGoWhileLimitsChange) {
  TestCgroup parent(hierarchies_, "-churn"), child(hierarchies_, "-churn/child");
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (unsigned i = 0; !stop; ++i) parent.set_memory_max((64 + i % 2) * kMiB);
  });
  for (int i = 0; i < 50; ++i) {
    const auto container = add(child);
    ASSERT_NE(container, nullptr);
    EXPECT_TRUE(watch_->refresh(container));
    EXPECT_TRUE(registry_->remove("test"));
  }
  stop = true;
  writer.join();
}

}  // namespace
}  // namespace umwelt::container
