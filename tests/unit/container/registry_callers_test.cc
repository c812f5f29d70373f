// SPDX-License-Identifier: Apache-2.0
// Containers that nobody registered.
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/file.h"
#include "registry_fixture.h"

namespace umwelt::container {
namespace {

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

TEST_F(RegistryTest, OfOneCgroupLittleIsKept) {
  TestCgroup cgroup(hierarchies_, "-forgotten");
  for (int i = 0; i < 20; ++i) {
    const Child child(CLONE_NEWPID);
    ASSERT_TRUE(cgroup.attach(child.pid()));
    const auto container = registry_->by_caller(child.pid());
    ASSERT_TRUE(container) << container.error().message();
    EXPECT_TRUE((*container)->resources(view::kNeedCpuTime));
    registry_->sweep(boottime_ns() + 61'000'000'000U);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // a start is told in clock ticks
  }
  // A record and a history each.
  EXPECT_EQ(read_names_at(AT_FDCWD, folder_ + "/records/callers")->size(), 16U);
}

TEST_F(RegistryTest, OfTwoInOneCgroupTheFirstIsTheCallers) {
  TestCgroup cgroup(hierarchies_, "-shared");
  const Child child(0, [&] { return cgroup.attach(::getpid()); });
  ASSERT_TRUE(child.ok());
  const auto first = registry_->add(record("a", cgroup));
  ASSERT_TRUE(first);
  EXPECT_EQ(registry_->by_caller(child.pid()).value(), *first);
  ASSERT_TRUE(registry_->add(record("b", cgroup)));
  EXPECT_EQ(registry_->by_caller(child.pid()).value(), *first);
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

}  // namespace
}  // namespace umwelt::container
