// SPDX-License-Identifier: Apache-2.0
#include "container/registry.h"

#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "base/file.h"
#include "registry_fixture.h"

namespace umwelt::container {
namespace {

// Enough to read records.
void with_few_descriptors(const std::function<void()>& call) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit tight{read_names_at(AT_FDCWD, "/proc/self/fd")->size() + 3, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &tight), 0);
  call();
  ::setrlimit(RLIMIT_NOFILE, &before);
}

TEST_F(RegistryTest, AddFindRemove) {
  TestCgroup cgroup(hierarchies_, "-a"), other(hierarchies_, "-b");
  const auto a = registry_->add(record("a", cgroup));
  ASSERT_TRUE(a) << a.error().message();
  const auto b = registry_->add(record("b", other));
  ASSERT_TRUE(b);
  EXPECT_EQ(registry_->find("a"), *a);
  EXPECT_EQ(registry_->find((*b)->record().number), *b);
  EXPECT_EQ(registry_->all(), (std::vector{*a, *b}));
  EXPECT_TRUE(std::filesystem::exists(record_file("a")));
  EXPECT_GT((*a)->record().start_boottime_ns, 0U);

  EXPECT_TRUE(registry_->remove("a"));
  EXPECT_EQ(registry_->find("a"), nullptr);
  EXPECT_EQ(registry_->find((*a)->record().number), nullptr);
  EXPECT_FALSE(std::filesystem::exists(record_file("a")));
  EXPECT_EQ(registry_->remove("a").error().code, ENOENT);
}

TEST_F(RegistryTest, WhatTheRecordLeavesOutTheInitProcessTells) {
  TestCgroup cgroup(hierarchies_, "-init");
  const Child init(0, [&] { return cgroup.attach(::getpid()); });
  ASSERT_TRUE(init.ok());
  const auto container = registry_->add(record_of(init.pid()));
  ASSERT_TRUE(container) << container.error().message();
  const Record& got = (*container)->record();
  EXPECT_EQ(got.init_starttime, *read_starttime(init.pid()));
  EXPECT_EQ(got.start_boottime_ns, starttime_to_boottime_ns(got.init_starttime));
  for (const auto& [controller, path] : cgroup.paths())
    EXPECT_EQ(got.cgroup_paths.at(controller), path);
}

TEST_F(RegistryTest, TheContainerOfAnInitThatMovedItself) {
  TestCgroup cgroup(hierarchies_, "-moved"), below(hierarchies_, "-moved/init");
  const Child init(CLONE_NEWPID, [&] {
    return cgroup.attach(::getpid()) && ::unshare(CLONE_NEWCGROUP) == 0 && below.attach(::getpid());
  });
  ASSERT_TRUE(init.ok());
  const auto container = registry_->add(record_of(init.pid()));
  ASSERT_TRUE(container) << container.error().message();
  for (const auto& [controller, path] : cgroup.paths())
    EXPECT_EQ((*container)->record().cgroup_paths.at(controller), path);
}

TEST_F(RegistryTest, RefusesWhatIsNoContainer) {
  TestCgroup cgroup(hierarchies_, "-bad");
  EXPECT_EQ(registry_->add(record("../a", cgroup)).error().code, EINVAL);
  EXPECT_EQ(registry_->add(record("", cgroup)).error().code, EINVAL);
  Record empty;
  empty.id = "a";
  EXPECT_EQ(registry_->add(empty).error().code, EINVAL);
  Record nowhere = record("a", cgroup);
  for (auto& [controller, path] : nowhere.cgroup_paths) path += "/nowhere";
  EXPECT_EQ(registry_->add(nowhere).error().code, ENODEV);
  Record latin1 = record("a", cgroup);
  latin1.name = "caf\xe9";
  EXPECT_EQ(registry_->add(latin1).error().code, EINVAL);

  Child child;
  Record reused = record("a", cgroup, child.pid());
  reused.init_starttime = *read_starttime(child.pid()) + 1;
  EXPECT_EQ(registry_->add(reused).error().code, ESRCH);
  const pid_t pid = child.pid();
  child.kill();
  EXPECT_EQ(registry_->add(record("a", cgroup, pid)).error().code, ESRCH);
  EXPECT_TRUE(registry_->all().empty());
  EXPECT_FALSE(std::filesystem::exists(record_file("a")));
}

TEST_F(RegistryTest, OneIdOneLivingContainer) {
  TestCgroup cgroup(hierarchies_, "-one");
  Child first;
  const Child second;
  const auto a = registry_->add(record("a", cgroup, first.pid()));
  ASSERT_TRUE(a) << a.error().message();
  EXPECT_EQ(registry_->add(record("a", cgroup, first.pid())).value(), *a);
  EXPECT_EQ(registry_->add(record("a", cgroup, second.pid())).error().code, EEXIST);
  EXPECT_EQ(registry_->add(record("a", cgroup)).error().code, EEXIST);
  first.kill();
  const auto b = registry_->add(record("a", cgroup, second.pid()));
  ASSERT_TRUE(b) << b.error().message();
  EXPECT_GT((*b)->record().number, (*a)->record().number);
  EXPECT_EQ(registry_->find("a"), *b);
  registry_->remove(*a);  // the old one's end does not end the new one
  EXPECT_EQ(registry_->find("a"), *b);
  EXPECT_TRUE(std::filesystem::exists(record_file("a")));
}

TEST_F(RegistryTest, WhoeverIsToldOfOneContainerHoldsUpNoOther) {
  TestCgroup cgroup(hierarchies_, "-told");
  std::promise<void> told, go_on;
  registry_ = std::make_unique<Registry>(folder_ + "/records", hierarchies_, host_);
  registry_->observe({.added = {}, .removed = [&](const auto& container) {
                        if (container->record().id != "a") return;
                        told.set_value();
                        go_on.get_future().wait();
                      }});
  ASSERT_TRUE(registry_->load());
  ASSERT_TRUE(registry_->add(record("a", cgroup)));
  auto removed = std::async(std::launch::async, [&] { return registry_->remove("a"); });
  told.get_future().wait();

  auto others = std::async(std::launch::async, [&] {
    return registry_->add(record("b", cgroup)).has_value() && registry_->remove("b").has_value();
  });
  EXPECT_EQ(others.wait_for(std::chrono::seconds(10)), std::future_status::ready);
  // The next one of that id comes when all have been told of the end of this one.
  auto next = std::async(std::launch::async, [&] { return registry_->add(record("a", cgroup)); });
  EXPECT_EQ(next.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  go_on.set_value();
  EXPECT_TRUE(removed.get());
  EXPECT_TRUE(others.get());
  EXPECT_TRUE(next.get());
}

TEST_F(RegistryTest, ARestartTakesOverTheLiving) {
  TestCgroup kept(hierarchies_, "-kept"), removed(hierarchies_, "-removed");
  const Child alive;
  Child dies;
  const auto a = registry_->add(record("alive", kept, alive.pid()));
  ASSERT_TRUE(a);
  const std::uint64_t number = (*a)->record().number;
  ASSERT_TRUE(registry_->add(record("dies", kept, dies.pid())));
  ASSERT_TRUE(registry_->add(record("cgroup-gone", removed)));
  const auto last = registry_->add(record("last", kept));
  ASSERT_TRUE(last);
  const std::uint64_t last_number = (*last)->record().number;
  ASSERT_TRUE(registry_->remove("last"));
  dies.kill();
  removed.remove();
  restart();
  EXPECT_EQ(loaded_, 1U);
  ASSERT_EQ(registry_->all().size(), 1U);
  EXPECT_EQ(registry_->all().front()->record().id, "alive");
  EXPECT_EQ(registry_->all().front()->record().number, number);
  EXPECT_FALSE(std::filesystem::exists(record_file("dies")));
  EXPECT_FALSE(std::filesystem::exists(record_file("cgroup-gone")));
  const auto next = registry_->add(record("next", kept));
  ASSERT_TRUE(next);
  EXPECT_GT((*next)->record().number, last_number) << "a number is never used twice";
}

TEST_F(RegistryTest, ARestartNeverTakesTheNewCgroupOfAnOldName) {
  {
    TestCgroup cgroup(hierarchies_, "-reborn");
    ASSERT_TRUE(registry_->add(record("a", cgroup)));
    registry_.reset();
  }
  TestCgroup cgroup(hierarchies_, "-reborn");
  registry_ = make();
  EXPECT_EQ(loaded_, 0U);
}

TEST_F(RegistryTest, CountersGoOnOverARestart) {
  TestCgroup cgroup(hierarchies_, "-history");
  constexpr unsigned kNeeds = view::kNeedCpuTime | view::kNeedLoad | view::kNeedUptime;
  const auto read = [&] {
    const auto resources = registry_->find("a")->resources(kNeeds);
    EXPECT_TRUE(resources) << resources.error().message();
    return *resources;
  };
  ASSERT_TRUE(registry_->add(record("a", cgroup)));
  read();
  const Child busy(0, [&] {
    if (!cgroup.attach(::getpid())) return false;
    burn_cpu(std::chrono::milliseconds(50));
    return true;
  });
  // The CPUs go away and come back, so that each has a past that one sample could not make up.
  if (cgroup.v1("cpu"))
    cgroup.write("cpu", "cpu.cfs_quota_us", "100000");
  else
    cgroup.write("cpu", "cpu.max", "100000 100000");
  ASSERT_TRUE(registry_->find("a")->refresh());
  const view::Resources before = read();
  restart();
  ASSERT_NE(registry_->find("a"), nullptr);
  const view::Resources after = read();
  ASSERT_EQ(after.cpu_times.size(), before.cpu_times.size());
  for (std::size_t i = 0; i < after.cpu_times.size(); ++i) {
    EXPECT_GE(after.cpu_times[i].user_ns, before.cpu_times[i].user_ns);
    EXPECT_GE(after.cpu_times[i].system_ns, before.cpu_times[i].system_ns);
    EXPECT_GE(after.cpu_times[i].idle_ns, before.cpu_times[i].idle_ns);
    EXPECT_GE(after.cpu_times[i].steal_ns, before.cpu_times[i].steal_ns);
  }
  EXPECT_GE(after.uptime.idle_ns, before.uptime.idle_ns);
  EXPECT_LT(after.uptime.idle_ns, before.uptime.idle_ns + 5'000'000'000U);
  EXPECT_TRUE(registry_->remove("a"));
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/records/a.history"));
}

TEST_F(RegistryTest, AReadThatOutlivesItsContainerIsNotOfTheNextOne) {
  TestCgroup cgroup(hierarchies_, "-outlived");
  const auto old = registry_->add(record("a", cgroup));
  ASSERT_TRUE(old) << old.error().message();
  ASSERT_TRUE(registry_->remove("a"));
  ASSERT_TRUE((*old)->resources(view::kNeedCpuTime));
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/records/a.history"));
}

TEST_F(RegistryTest, ABadHistoryIsNoHistory) {
  TestCgroup cgroup(hierarchies_, "-bad-history");
  ASSERT_TRUE(registry_->add(record("a", cgroup)));
  for (const char* text : {"", "x", "{}", R"({"cpu":{},"load":{}})"}) {
    std::ofstream(folder_ + "/records/a.history") << text;
    restart();
    ASSERT_EQ(loaded_, 1U) << text;
    EXPECT_TRUE(registry_->find("a")->resources(view::kNeedCpuTime)) << text;
  }
}

TEST_F(RegistryTest, BadRecordFilesAreDropped) {
  TestCgroup cgroup(hierarchies_, "-files");
  ASSERT_TRUE(registry_->add(record("good", cgroup)));
  const std::string good = *read_file(record_file("good"));
  std::ofstream(record_file("empty"));
  std::ofstream(record_file("text")) << "not json";
  std::ofstream(record_file("array")) << "[1,2]";
  std::ofstream(record_file("copy")) << good;  // says it is "good"
  std::ofstream(record_file("number")) << R"({"id":"number","cgroup":{"memory":"/"}})";
  std::ofstream(record_file("huge")) << std::string(2U << 20, ' ');
  std::ofstream(folder_ + "/records/good.json.new") << "half";  // of a crash
  std::filesystem::create_directory(record_file("directory"));
  std::ofstream(folder_ + "/records/next-number") << "x";
  restart();
  EXPECT_EQ(loaded_, 1U);
  EXPECT_NE(registry_->find("good"), nullptr);
  EXPECT_FALSE(std::filesystem::exists(record_file("text")));
  const auto next = registry_->add(record("next", cgroup));
  ASSERT_TRUE(next);
  EXPECT_GT((*next)->record().number, registry_->find("good")->record().number);
}

TEST_F(RegistryTest, ObserversHearOfEveryComingAndGoing) {
  TestCgroup cgroup(hierarchies_, "-observe");
  ASSERT_TRUE(registry_->add(record("kept", cgroup)));
  registry_ = std::make_unique<Registry>(folder_ + "/records", hierarchies_, host_);
  std::vector<std::string> events;
  registry_->observe({[&](const auto& container) {
                        events.push_back("+" + container->record().id);
                        EXPECT_EQ(registry_->find(container->record().id), container);
                      },
                      [&](const auto& container) {
                        events.push_back("-" + container->record().id);
                        EXPECT_EQ(registry_->find(container->record().id), nullptr);
                      }});
  ASSERT_TRUE(registry_->load());
  ASSERT_TRUE(registry_->add(record("new", cgroup)));
  ASSERT_TRUE(registry_->remove("kept"));
  EXPECT_FALSE(registry_->remove("kept"));
  EXPECT_EQ(events, (std::vector<std::string>{"+kept", "+new", "-kept"}));
}

TEST_F(RegistryTest, ManyThreadsAtOnce) {
  TestCgroup cgroup(hierarchies_, "-many");
  const Child child(0, [&] { return cgroup.attach(::getpid()); });
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      const std::string id = "t" + std::to_string(i);
      for (int round = 0; round < 20; ++round) {
        ASSERT_TRUE(registry_->add(record(id, cgroup)));
        const auto container = registry_->by_caller(child.pid());
        ASSERT_TRUE(container) << container.error().message();
        ASSERT_TRUE((*container)->resources(view::kNeedMemory));
        registry_->sweep();
        ASSERT_TRUE(registry_->remove(id));
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(registry_->all().empty());
}

TEST_F(RegistryTest, WhatCanNotBeOpenedAtAStartIsThereLater) {
  TestCgroup cgroup(hierarchies_, "-late"), other(hierarchies_, "-other");
  ASSERT_TRUE(registry_->add(record("a", cgroup)) && registry_->add(record("b", other)));
  registry_.reset();
  with_few_descriptors([&] { registry_ = make(); });
  EXPECT_EQ(loaded_, 0U);
  EXPECT_FALSE(registry_->find("a"));
  ASSERT_TRUE(registry_->remove("b"));
  registry_->load_late();
  EXPECT_TRUE(registry_->find("a"));
  EXPECT_FALSE(registry_->find("b"));
  EXPECT_TRUE(registry_->add(record("c", other)));
}

TEST_F(RegistryTest, WhoeverRegistersOneThatIsLateGoesOnFromItsHistory) {
  TestCgroup cgroup(hierarchies_, "-late-again");
  const Child init, other;
  const auto added = registry_->add(record("a", cgroup, init.pid()));
  ASSERT_TRUE(added) << added.error().message();
  ASSERT_TRUE(registry_->add(record("b", cgroup, other.pid())));
  const std::uint64_t number = (*added)->record().number;
  const auto idle_ns = [&] {
    const auto resources = registry_->find("a")->resources(view::kNeedUptime);
    EXPECT_TRUE(resources) << resources.error().message();
    return resources->uptime.idle_ns;
  };
  idle_ns();
  registry_.reset();
  // What no first sample could make up.
  HistoryFile kept(folder_ + "/records/a.history");
  History history = *kept.load().value();
  constexpr std::uint64_t kDayNs = 86'400'000'000'000U;
  history.cpu.by_id.begin()->second.idle_ns += kDayNs;
  ASSERT_TRUE(kept.store(history));
  with_few_descriptors([&] { registry_ = make(); });
  ASSERT_FALSE(registry_->find("a"));

  const auto again = registry_->add(record("a", cgroup, init.pid()));
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ((*again)->record().number, number);
  EXPECT_GT(idle_ns(), kDayNs);
  const auto taken = registry_->add(record("b", cgroup, init.pid()));
  EXPECT_EQ(taken ? 0 : taken.error().code, EEXIST);
  registry_->load_late();
  EXPECT_EQ(registry_->find("a"), *again);
}

TEST_F(RegistryTest, ARecordThatCanNotBeReadIsNotLost) {
  TestCgroup cgroup(hierarchies_, "-unread");
  ASSERT_TRUE(registry_->add(record("a", cgroup)));
  registry_.reset();
  const std::string file = record_file("a"), aside = folder_ + "/aside";
  ASSERT_EQ(::rename(file.c_str(), aside.c_str()), 0);
  ASSERT_EQ(::symlink(file.c_str(), file.c_str()), 0);  // ELOOP
  registry_ = make();
  EXPECT_EQ(loaded_, 0U);
  ASSERT_EQ(::rename(aside.c_str(), file.c_str()), 0);
  registry_->load_late();
  EXPECT_TRUE(registry_->find("a"));
}

}  // namespace
}  // namespace umwelt::container
