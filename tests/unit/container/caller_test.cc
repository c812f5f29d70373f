// SPDX-License-Identifier: Apache-2.0
#include "container/caller.h"

#include "kernel_fixture.h"

namespace umwelt::container {
namespace {

using Paths = cgroup::Paths;

TEST(CallerRules, ContainsInEveryHierarchyThatIsNotTheRoot) {
  const Paths web{{"memory", "/umwelt/web"}, {"cpu", "/umwelt/web"}, {"pids", "/"}};
  EXPECT_TRUE(contains(web, {{"memory", "/umwelt/web"}, {"cpu", "/umwelt/web"}}));
  EXPECT_TRUE(contains(web, {{"memory", "/umwelt/web/a/b"}, {"cpu", "/umwelt/web"}, {"", "/x"}}));
  EXPECT_FALSE(contains(web, {{"memory", "/umwelt/web2"}, {"cpu", "/umwelt/web2"}}));
  EXPECT_FALSE(contains(web, {{"memory", "/umwelt/web"}, {"cpu", "/"}}));
  EXPECT_FALSE(contains(web, {{"memory", "/umwelt/web"}}));
  EXPECT_FALSE(contains(web, {}));
  const Paths host{{"memory", "/"}, {"", "/"}};
  EXPECT_FALSE(contains(host, web));
  EXPECT_FALSE(contains({}, web));
}

TEST(CallerRules, NamespaceRootIsWhatTheInsideDoesNotSee) {
  const Paths ours{
      {"memory", "/docker/ID/sub"}, {"cpu", "/docker/ID"}, {"pids", "/sub"}, {"", "/"}};
  const Paths theirs{{"memory", "/sub"}, {"cpu", "/"}, {"pids", "/sub"}, {"", "/"}};
  EXPECT_EQ(namespace_root(ours, theirs),
            (Paths{{"memory", "/docker/ID"}, {"cpu", "/docker/ID"}, {"pids", "/"}, {"", "/"}}));
  // Outside of its namespace's root: its own cgroup.
  EXPECT_EQ(namespace_root({{"memory", "/a/x"}}, {{"memory", "/../x"}}),
            (Paths{{"memory", "/a/x"}}));
  EXPECT_EQ(namespace_root({{"memory", "/a"}}, {{"memory", "/longer/than/a"}}),
            (Paths{{"memory", "/a"}}));
  EXPECT_EQ(namespace_root({{"memory", "/a"}}, {}), (Paths{{"memory", "/a"}}));
}

TEST(CallerRules, BelowTheCommonAncestor) {
  const struct {
    const char *caller, *init, *expected;
  } cases[] = {
      {"/docker/ID", "/docker/ID", "/docker/ID"},
      {"/docker/ID/a/b", "/docker/ID", "/docker/ID"},
      {"/docker/ID/system.slice/x.service", "/docker/ID/init.scope", "/docker/ID"},
      {"/docker/ID/init.scope", "/docker/ID/init.scope", "/docker/ID"},
      {"/docker/ID", "/docker/ID/init.scope", "/docker/ID"},
      // A pod: the pause container's process is everybody's init.
      {"/kubepods/pod1/app", "/kubepods/pod1/pause", "/kubepods/pod1/app"},
      {"/kubepods/pod1/app/sub", "/kubepods/pod1/pause", "/kubepods/pod1/app"},
      {"/kubepods/pod1/application", "/kubepods/pod1/app", "/kubepods/pod1/application"},
      {"/docker/ID", "/docker/ID/supervisor", "/docker/ID"},
      {"/a/b/c", "/x", "/a"},
      {"/a/b/c", "/", "/a"},
      {"/", "/x", "/"},
      {"/", "/", "/"},
      {"/a", "/init.scope", "/a"},
  };
  for (const auto& row : cases)
    EXPECT_EQ(below_common_ancestor({{"memory", row.caller}}, {{"memory", row.init}}),
              (Paths{{"memory", row.expected}}))
        << row.caller << " with init in " << row.init;
  // Each controller stands for itself.
  EXPECT_EQ(below_common_ancestor({{"memory", "/rt/a"}, {"cpu", "/"}, {"pids", "/rt"}},
                                  {{"memory", "/rt"}, {"cpu", "/rt"}}),
            (Paths{{"memory", "/rt"}, {"cpu", "/"}, {"pids", "/rt"}}));
}

class Caller : public KernelTest {
 protected:
  Result<Record> describe(pid_t pid) {
    const std::string text(*read_proc_cgroup(pid));
    auto described = describe_caller(pid, *read_namespaces(pid), *read_namespaces(::getpid()),
                                     *cgroup::parse_proc_cgroup(text), hierarchies_);
    if (!described) return fail(described.error());
    return described->record;
  }
  // Only what the test put somewhere: whatever runs the tests has cgroups of its own.
  static std::string path_in(const Record& record, const TestCgroup& cgroup) {
    const auto found = record.cgroup_paths.find(cgroup.paths().begin()->first);
    return found == record.cgroup_paths.end() ? "none" : found->second;
  }
};

TEST_F(Caller, NoSuchProcess) {
  Child child;
  const pid_t pid = child.pid();
  child.kill();
  EXPECT_EQ(read_proc_cgroup(pid).error().code, ESRCH);
  EXPECT_EQ(read_namespaces(pid).error().code, ESRCH);
  EXPECT_EQ(read_cgroups_of_init(pid, {}).error().code, ESRCH);
  EXPECT_EQ(find_init(pid).error().code, ESRCH);
  EXPECT_EQ(find_init_by_parents(pid).error().code, ESRCH);
  EXPECT_EQ(read_proc_cgroup(0).error().code, ESRCH);
}

TEST_F(Caller, InitOfAPidNamespaceByBothWays) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  // Its grandchild is two parents away from the init.
  const Child init(CLONE_NEWPID, [&] {
    if (::fork() != 0) return true;
    const pid_t grandchild = ::fork();
    if (grandchild != 0) (void)!::write(ends[1], &grandchild, sizeof grandchild);
    for (;;) ::pause();
  });
  ASSERT_TRUE(init.ok());
  pid_t inside = 0;  // its pid in the namespace
  ASSERT_EQ(::read(ends[0], &inside, sizeof inside), static_cast<ssize_t>(sizeof inside));
  ::close(ends[0]);
  ::close(ends[1]);
  EXPECT_GE(inside, 3);  // more where the thread sanitizer has a thread of its own
  EXPECT_EQ(find_init_by_parents(init.pid()).value_or(-1), init.pid());
  EXPECT_EQ(find_init(init.pid()).value_or(-1), init.pid());
  const auto children = read_file("/proc/" + std::to_string(init.pid()) + "/task/" +
                                  std::to_string(init.pid()) + "/children");
  if (!children) GTEST_SKIP() << "needs CONFIG_PROC_CHILDREN";
  const pid_t child = std::stoi(*children);
  EXPECT_EQ(find_init(child).value_or(-1), init.pid());
  EXPECT_EQ(find_init_by_parents(child).value_or(-1), init.pid());
  const Child outside;
  EXPECT_NE(find_init(outside.pid()).value_or(-1), init.pid());
}

TEST_F(Caller, RootOfACgroupNamespace) {
  TestCgroup outer(hierarchies_, "-ns"), inner(hierarchies_, "-ns/sub");
  const Child child(0, [&] {
    return outer.attach(::getpid()) && ::unshare(CLONE_NEWCGROUP) == 0 && inner.attach(::getpid());
  });
  ASSERT_TRUE(child.ok());
  const auto record = describe(child.pid());
  ASSERT_TRUE(record) << record.error().message();
  for (const auto& [controller, path] : outer.paths())
    EXPECT_EQ(record->cgroup_paths.at(controller), outer.path()) << controller;
  // Seen from outside, the process is further down; the test itself stays where it was.
  EXPECT_NE(read_proc_cgroup(child.pid())->find("/sub\n"), std::string_view::npos);
  EXPECT_EQ(read_namespaces(::getpid())->cgroup, read_namespaces(::getppid())->cgroup);
  // It shares the pid namespace: its start is that of the oldest process in there.
  EXPECT_GT(record->start_boottime_ns, 0U);
  EXPECT_LE(record->start_boottime_ns, boottime_ns());
  EXPECT_GT(record->start_boottime_ns + 5'000'000'000U, boottime_ns());
}

TEST_F(Caller, ByTheInitOfThePidNamespace) {
  TestCgroup container(hierarchies_, "-pid"), scope(hierarchies_, "-pid/init.scope"),
      service(hierarchies_, "-pid/service");
  const Child init(CLONE_NEWPID, [&] {
    const pid_t child = ::fork();
    if (child == 0)
      for (;;) ::pause();
    return true;
  });
  ASSERT_TRUE(init.ok());
  const auto children = read_file("/proc/" + std::to_string(init.pid()) + "/task/" +
                                  std::to_string(init.pid()) + "/children");
  if (!children) GTEST_SKIP() << "needs CONFIG_PROC_CHILDREN";
  const pid_t child = std::stoi(*children);
  ASSERT_TRUE(scope.attach(init.pid()));
  ASSERT_TRUE(service.attach(child));
  const auto record = describe(child);
  ASSERT_TRUE(record) << record.error().message();
  EXPECT_EQ(path_in(*record, container), container.path());
  EXPECT_EQ(record->start_boottime_ns, starttime_to_boottime_ns(*read_starttime(init.pid())));
  EXPECT_NEAR(static_cast<double>(record->start_realtime_s), static_cast<double>(::time(nullptr)),
              5);
}

TEST_F(Caller, WithoutNamespacesItsOwnCgroup) {
  TestCgroup cgroup(hierarchies_, "-own");
  const Child child(0, [&] { return cgroup.attach(::getpid()); });
  ASSERT_TRUE(child.ok());
  const auto record = describe(child.pid());
  ASSERT_TRUE(record) << record.error().message();
  EXPECT_EQ(path_in(*record, cgroup), cgroup.path());
  EXPECT_TRUE(record->identity().limited);
}

TEST_F(Caller, AtEveryRootTheMachineItself) {
  const Child child(0, [&] {
    for (const auto& [controller, mount] : hierarchies_.v1)
      if (!write_file_at(AT_FDCWD, mount + "/cgroup.procs", std::to_string(::getpid())))
        return false;
    return hierarchies_.v2.empty() ||
           write_file_at(AT_FDCWD, hierarchies_.v2 + "/cgroup.procs", std::to_string(::getpid()))
               .has_value();
  });
  if (!child.ok()) GTEST_SKIP() << "needs access to the root cgroups";
  const auto record = describe(child.pid());
  ASSERT_TRUE(record) << record.error().message();
  EXPECT_FALSE(record->identity().limited);
  EXPECT_EQ(record->start_boottime_ns, 0U);
}

TEST_F(Caller, AnInitThatMovedItselfIsInItsNamespacesRoot) {
  TestCgroup container(hierarchies_, "-moved"), below(hierarchies_, "-moved/below"),
      scope(hierarchies_, "-moved/init.scope");
  const auto own = *read_namespaces(::getpid());
  const auto expect_container = [&](const Child& init) {
    ASSERT_TRUE(init.ok());
    const auto paths = read_cgroups_of_init(init.pid(), own);
    ASSERT_TRUE(paths) << paths.error().message();
    for (const auto& [controller, path] : container.paths())
      EXPECT_EQ(paths->at(controller), path) << controller;
  };
  expect_container(Child(CLONE_NEWPID, [&] {
    return container.attach(::getpid()) && ::unshare(CLONE_NEWCGROUP) == 0 &&
           below.attach(::getpid());
  }));
  // As it is before it has moved, and with the host's cgroup namespace before and after.
  expect_container(Child(CLONE_NEWPID, [&] {
    return container.attach(::getpid()) && ::unshare(CLONE_NEWCGROUP) == 0;
  }));
  expect_container(Child(CLONE_NEWPID, [&] { return container.attach(::getpid()); }));
  expect_container(Child(CLONE_NEWPID, [&] { return scope.attach(::getpid()); }));
}

TEST_F(Caller, ANamespaceOlderThanTheCgroupIsNotTheMachine) {
  TestCgroup container(hierarchies_, "-late");
  const Child init(CLONE_NEWPID, [&] {
    for (const auto& [controller, path] : container.paths()) {
      const auto mount = hierarchies_.v1.find(controller);
      if (!write_file_at(
              AT_FDCWD,
              (mount == hierarchies_.v1.end() ? hierarchies_.v2 : mount->second) + "/cgroup.procs",
              std::to_string(::getpid())))
        return false;
    }
    return ::unshare(CLONE_NEWCGROUP) == 0 && container.attach(::getpid());
  });
  if (!init.ok()) GTEST_SKIP() << "needs access to the root cgroups";
  const auto paths = read_cgroups_of_init(init.pid(), *read_namespaces(::getpid()));
  ASSERT_TRUE(paths) << paths.error().message();
  for (const auto& [controller, path] : container.paths())
    EXPECT_EQ(paths->at(controller), path) << controller;
}

TEST_F(Caller, ATimeNamespaceIsSeen) {
  const Child plain;
  EXPECT_FALSE(describe(plain.pid())->time_namespace);
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  // A new time namespace is for children only.
  const Child parent(0, [&] {
    if (::unshare(CLONE_NEWTIME) != 0) return false;
    const pid_t child = ::fork();
    if (child == 0) {
      const pid_t self = ::getpid();
      (void)!::write(ends[1], &self, sizeof self);
      for (;;) ::pause();
    }
    return true;
  });
  ASSERT_TRUE(parent.ok());
  pid_t child = 0;
  ASSERT_EQ(::read(ends[0], &child, sizeof child), static_cast<ssize_t>(sizeof child));
  EXPECT_TRUE(describe(child)->time_namespace);
  ::kill(child, SIGKILL);
  ::close(ends[0]);
  ::close(ends[1]);
}

}  // namespace
}  // namespace umwelt::container
