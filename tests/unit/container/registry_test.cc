// SPDX-License-Identifier: Apache-2.0
#include "container/registry.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "kernel_fixture.h"

namespace umwelt::container {
namespace {

class RegistryTest : public KernelTest {
 protected:
  void SetUp() override {
    KernelTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    auto host = host::Reader::open();
    ASSERT_TRUE(host) << host.error().message();
    host_ = std::move(*host);
    registry_ = make();
  }
  std::unique_ptr<Registry> make() {
    auto registry = std::make_unique<Registry>(folder_ + "/records", hierarchies_, host_);
    const auto loaded = registry->load();
    EXPECT_TRUE(loaded) << loaded.error().message();
    loaded_ = loaded.value_or(0);
    return registry;
  }
  // A new daemon with the same directory.
  void restart() {
    registry_.reset();
    registry_ = make();
  }
  static Record record(const std::string& id, const TestCgroup& cgroup, pid_t init = 0) {
    Record record;
    record.id = id;
    record.cgroup_paths = cgroup.paths();
    record.init_pid = init;
    return record;
  }
  std::string record_file(const std::string& id) const {
    return folder_ + "/records/" + id + ".json";
  }

  std::shared_ptr<host::Reader> host_;
  std::unique_ptr<Registry> registry_;
  unsigned loaded_ = 0;
};

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
  Record wanted;
  wanted.id = "a";
  wanted.init_pid = init.pid();
  const auto container = registry_->add(wanted);
  ASSERT_TRUE(container) << container.error().message();
  const Record& got = (*container)->record();
  EXPECT_EQ(got.init_starttime, *read_starttime(init.pid()));
  EXPECT_EQ(got.start_boottime_ns, starttime_to_boottime_ns(got.init_starttime));
  for (const auto& [controller, path] : cgroup.paths())
    EXPECT_EQ(got.cgroup_paths.at(controller), path);
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

TEST_F(RegistryTest, ACallerInARegisteredContainer) {
  TestCgroup outer(hierarchies_, "-outer"), inner(hierarchies_, "-outer/inner"),
      leaf(hierarchies_, "-outer/inner/leaf"), beside(hierarchies_, "-outer2");
  const Child in_leaf(0, [&] { return leaf.attach(::getpid()); });
  const Child in_outer(0, [&] { return outer.attach(::getpid()); });
  const Child in_beside(0, [&] { return beside.attach(::getpid()); });
  ASSERT_TRUE(in_leaf.ok() && in_outer.ok() && in_beside.ok());
  const auto a = registry_->add(record("outer", outer));
  ASSERT_TRUE(a) << a.error().message();
  EXPECT_EQ(registry_->by_caller(in_leaf.pid()).value(), *a);
  EXPECT_EQ(registry_->by_caller(in_leaf.pid()).value(), *a);
  EXPECT_EQ(registry_->by_caller(in_outer.pid()).value(), *a);
  EXPECT_NE(registry_->by_caller(in_beside.pid()).value(), *a);
  // Innermost first, whichever was registered first.
  const auto b = registry_->add(record("inner", inner));
  ASSERT_TRUE(b);
  EXPECT_EQ(registry_->by_caller(in_leaf.pid()).value(), *b);
  EXPECT_EQ(registry_->by_caller(in_outer.pid()).value(), *a);
  ASSERT_TRUE(registry_->remove("inner"));
  EXPECT_EQ(registry_->by_caller(in_leaf.pid()).value(), *a);
}

TEST_F(RegistryTest, ACallerOutsideOfThem) {
  TestCgroup cgroup(hierarchies_, "-own");
  const Child one(0, [&] { return cgroup.attach(::getpid()); });
  const Child two(0, [&] { return cgroup.attach(::getpid()); });
  ASSERT_TRUE(one.ok() && two.ok());
  const auto container = registry_->by_caller(one.pid());
  ASSERT_TRUE(container) << container.error().message();
  EXPECT_TRUE((*container)->record().id.starts_with("caller-")) << (*container)->record().id;
  EXPECT_EQ((*container)->record().number, 0U);
  EXPECT_EQ(registry_->by_caller(one.pid()).value(), *container);
  EXPECT_EQ(registry_->by_caller(two.pid()).value(), *container);
  EXPECT_TRUE(registry_->all().empty());
  EXPECT_EQ(registry_->on_demand().size(), 1U);
  EXPECT_EQ(registry_->find((*container)->record().id), nullptr);
  const auto registered = registry_->add(record("a", cgroup));
  ASSERT_TRUE(registered);
  EXPECT_EQ(registry_->by_caller(one.pid()).value(), *registered);
}

TEST_F(RegistryTest, TwoPidNamespacesInOneCgroup) {
  TestCgroup cgroup(hierarchies_, "-two");
  const auto attach = [&](const Child& child) { return cgroup.attach(child.pid()); };
  const Child before(CLONE_NEWPID);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // a start is told in clock ticks
  const Child after(CLONE_NEWPID);
  ASSERT_TRUE(attach(before) && attach(after));
  const auto first = registry_->by_caller(after.pid()), second = registry_->by_caller(before.pid());
  ASSERT_TRUE(first && second);
  EXPECT_EQ((*first)->record().cgroup_paths, (*second)->record().cgroup_paths);
  for (const auto& [container, child] : {std::pair(*first, &after), std::pair(*second, &before)})
    EXPECT_EQ(container->record().start_boottime_ns,
              starttime_to_boottime_ns(*read_starttime(child->pid())));
  EXPECT_EQ(registry_->by_caller(after.pid()).value(), *first);
}

// A container that has the host's processes, and makes a pid namespace for some of its own.
TEST_F(RegistryTest, APidNamespaceInAContainerIsNotTheContainer) {
  TestCgroup cgroup(hierarchies_, "-nested-pids");
  const Child outer(0,
                    [&] { return cgroup.attach(::getpid()) && ::unshare(CLONE_NEWCGROUP) == 0; });
  ASSERT_TRUE(outer.ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // a start is told in clock ticks
  const Child inner(CLONE_NEWPID);
  ASSERT_TRUE(cgroup.attach(inner.pid()));
  const auto nested = registry_->by_caller(inner.pid());
  const auto container = registry_->by_caller(outer.pid());
  ASSERT_TRUE(nested && container);
  EXPECT_EQ((*nested)->record().cgroup_paths, (*container)->record().cgroup_paths);
  EXPECT_EQ((*nested)->record().start_boottime_ns,
            starttime_to_boottime_ns(*read_starttime(inner.pid())));
  EXPECT_EQ((*container)->record().start_boottime_ns,
            starttime_to_boottime_ns(*read_starttime(outer.pid())));
}

std::size_t open_descriptors() { return read_names_at(AT_FDCWD, "/proc/self/fd")->size(); }

TEST_F(RegistryTest, OneCgroupTakesFewDescriptorsAndARegistrationFindsSome) {
  TestCgroup cgroup(hierarchies_, "-crowded"), other(hierarchies_, "-other");
  std::vector<std::unique_ptr<Child>> children;
  for (int i = 0; i < 12; ++i) {
    children.push_back(std::make_unique<Child>(CLONE_NEWPID));
    ASSERT_TRUE(cgroup.attach(children.back()->pid()));
    ASSERT_TRUE(registry_->by_caller(children.back()->pid()));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_EQ(registry_->on_demand().size(), 8U);
  EXPECT_TRUE(registry_->by_caller(children.front()->pid()));

  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit tight{open_descriptors() + 2, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &tight), 0);
  const auto added = registry_->add(record("a", other));
  ::setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_TRUE(added) << added.error().message();
}

TEST_F(RegistryTest, WhatNobodyReadForLongGoesOnWhereItWas) {
  TestCgroup cgroup(hierarchies_, "-idle");
  const Child child(0, [&] { return cgroup.attach(::getpid()); });
  ASSERT_TRUE(child.ok());
  const auto read = [&] {
    const auto container = registry_->by_caller(child.pid());
    EXPECT_TRUE(container) << container.error().message();
    const auto resources = (*container)->resources(view::kNeedCpuTime | view::kNeedUptime);
    EXPECT_TRUE(resources) << resources.error().message();
    return std::pair(*container, resources->uptime.idle_ns);
  };
  read();
  // Some of the CPUs go away: with those of now one sample could not make up the past.
  if (cgroup.v1("cpu"))
    cgroup.write("cpu", "cpu.cfs_quota_us", "100000");
  else
    cgroup.write("cpu", "cpu.max", "100000 100000");
  const auto before = read();
  registry_->sweep(boottime_ns() + 61'000'000'000U);
  EXPECT_TRUE(registry_->on_demand().empty());
  const auto again = read();
  EXPECT_NE(again.first, before.first);
  EXPECT_EQ(again.first->record().start_boottime_ns, before.first->record().start_boottime_ns);
  EXPECT_GE(again.second, before.second);
  restart();
  EXPECT_GE(read().second, again.second);
}

TEST_F(RegistryTest, ACgroupMadeAgainIsAnotherContainer) {
  std::optional<TestCgroup> cgroup(std::in_place, hierarchies_, "-again");
  std::optional<Child> child(std::in_place, 0, [&] { return cgroup->attach(::getpid()); });
  const auto before = registry_->by_caller(child->pid());
  ASSERT_TRUE(before) << before.error().message();
  child.reset();
  cgroup.reset();
  EXPECT_EQ((*before)->resources(view::kNeedMemory).error().code, ENODEV);
  cgroup.emplace(hierarchies_, "-again");
  child.emplace(0, [&] { return cgroup->attach(::getpid()); });
  const auto after = registry_->by_caller(child->pid());
  ASSERT_TRUE(after) << after.error().message();
  EXPECT_NE(*before, *after);
  EXPECT_TRUE((*after)->resources(view::kNeedMemory));
  registry_->sweep();
  EXPECT_EQ(registry_->on_demand().size(), 1U);
}

TEST_F(RegistryTest, CallersThatAreGone) {
  Child child;
  const pid_t pid = child.pid();
  child.kill();
  EXPECT_EQ(registry_->by_caller(pid).error().code, ESRCH);
  EXPECT_EQ(registry_->by_caller(0).error().code, ESRCH);
  EXPECT_EQ(registry_->by_caller(-1).error().code, ESRCH);
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

}  // namespace
}  // namespace umwelt::container
