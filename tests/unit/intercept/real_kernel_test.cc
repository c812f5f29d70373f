// SPDX-License-Identifier: Apache-2.0
// The kernel's side: filters, notifications, other tasks.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "base/file.h"
#include "intercept/notice.h"
#include "intercept/request.h"
#include "intercept/task.h"
#include "intercepted.h"
#include "unit/container/kernel_fixture.h"

namespace umwelt::intercept {
namespace {

seccomp_notif_resp value(std::uint64_t id, std::int64_t result) {
  seccomp_notif_resp response{};
  response.id = id;
  response.val = result;
  return response;
}

class RealKernel : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    fd_ = std::move(*Notice::create());
  }
  UniqueFd fd_;
};

TEST_F(RealKernel, ACallIsAnsweredByTheListener) {
  Intercepted child([] {
    struct sysinfo info {};
    const int result = ::sysinfo(&info);
    return result == 0 && info.totalram == 4711 ? 7 : 1;
  });
  ASSERT_EQ(child.error(), 0);
  auto notice = Notice::map(fd_.get());
  ASSERT_TRUE(notice);
  ASSERT_TRUE(notice->receive(child.listener()));
  const auto request = decode(notice->notification());
  ASSERT_TRUE(request);
  EXPECT_EQ(request->call, Call::kSysinfo);
  EXPECT_EQ(request->layout, Layout::k64);
  EXPECT_EQ(request->caller, child.pid());
  EXPECT_TRUE(is_waiting(child.listener(), request->id));
  struct sysinfo info {};
  info.totalram = 4711;
  const std::string bytes(reinterpret_cast<const char*>(&info), sizeof info);
  EXPECT_TRUE(write_memory(request->caller, request->args[0], bytes));
  EXPECT_TRUE(notice->answer(child.listener(), value(request->id, 0)));
  EXPECT_FALSE(is_waiting(child.listener(), request->id));
  EXPECT_EQ(child.exit_code(), 7);
}

TEST_F(RealKernel, WhatOneProcessReceivedAnotherOneAnswers) {
  Intercepted child([] { return static_cast<int>(::syscall(SYS_getcpu, nullptr, nullptr)); });
  ASSERT_EQ(child.error(), 0);
  const pid_t server = ::fork();
  if (server == 0) {
    auto notice = Notice::map(fd_.get());
    if (notice && notice->receive(child.listener())) ::raise(SIGKILL);
    ::_exit(1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(server, &status, 0), server);
  ASSERT_TRUE(WIFSIGNALED(status));
  auto notice = Notice::map(fd_.get());
  ASSERT_TRUE(notice);
  const std::uint64_t id = notice->notification().id;
  ASSERT_NE(id, 0U);
  EXPECT_EQ(decode(notice->notification())->call, Call::kGetcpu);
  EXPECT_TRUE(notice->answer(child.listener(), value(id, 42)));
  EXPECT_EQ(notice->notification().id, 0U);
  EXPECT_EQ(child.exit_code(), 42);
}

TEST_F(RealKernel, OnlyOneListenerInAChainOfFilters) {
  Intercepted child([] { return install_filter().error().code; });
  ASSERT_EQ(child.error(), 0);
  EXPECT_EQ(child.exit_code(), EBUSY);
}

TEST_F(RealKernel, AnEndIsNoticed) {
  Intercepted child([] { return 0; });
  ASSERT_EQ(child.error(), 0);
  EXPECT_EQ(child.exit_code(), 0);
  EXPECT_TRUE(is_abandoned(child.listener()));
}

TEST_F(RealKernel, OtherCallsAreTheKernelsOwn) {
  Intercepted child([] { return ::getppid() > 0 && ::sched_yield() == 0 ? 3 : 1; });
  ASSERT_EQ(child.error(), 0);
  EXPECT_EQ(child.exit_code(), 3);
}

TEST_F(RealKernel, SharedMemoryOfAnotherKindIsRefused) {
  const UniqueFd other(::memfd_create("other", MFD_CLOEXEC));
  const auto notice = Notice::map(other.get());
  ASSERT_FALSE(notice);
  EXPECT_EQ(notice.error().code, EINVAL);
}

TEST(Task, MemoryThatTheTaskCanNotUse) {
  const pid_t self = ::getpid();
  char* page = static_cast<char*>(
      ::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(page, MAP_FAILED);
  const auto at = [](const void* address) { return reinterpret_cast<std::uint64_t>(address); };
  std::memset(page, 'x', 8192);
  ASSERT_EQ(::mprotect(page + 4096, 4096, PROT_READ), 0);
  EXPECT_TRUE(write_memory(self, at(page), "12345678"));
  EXPECT_EQ(write_memory(self, at(page + 4096), "12345678").error().code, EFAULT);
  EXPECT_EQ(write_memory(self, at(page + 4092), "12345678").error().code, EFAULT);
  EXPECT_EQ(*read_memory(self, at(page), 9), "12345678x");
  EXPECT_EQ(*read_memory(self, 1, 0), "");
  for (const std::uint64_t bad : {std::uint64_t(0), std::uint64_t(1), ~std::uint64_t(0),
                                  std::uint64_t(0xffffffffff600000), std::uint64_t(1) << 63}) {
    EXPECT_EQ(read_memory(self, bad, 8).error().code, EFAULT) << bad;
    EXPECT_EQ(write_memory(self, bad, "12345678").error().code, EFAULT) << bad;
  }
  ::munmap(page, 8192);
}

TEST(Task, IdsAreTheCallers) {
  const pid_t self = ::getpid();
  EXPECT_EQ(*find_task(self, self), self);
  EXPECT_EQ(find_task(self, 0x3fffffff).error().code, ESRCH);
  EXPECT_EQ(find_task(self, -1).error().code, ESRCH);
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  // In a pid namespace of its own, where it is process 1.
  const pid_t child = static_cast<pid_t>(
      ::syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, nullptr, nullptr, nullptr, 0));
  if (child == 0)
    for (;;) ::pause();
  EXPECT_EQ(*find_task(child, 1), child);
  EXPECT_EQ(find_task(child, self == 2 ? 3 : 2).error().code, ESRCH);
  EXPECT_TRUE(may_schedule(self, child));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

// What waits in new pid namespaces, one in the other; each but the last has the next as number 2.
container::Child nested_namespaces(int levels) {
  return container::Child(CLONE_NEWPID, [levels] {
    if (levels > 1) new container::Child(nested_namespaces(levels - 1));
    return true;
  });
}

TEST(Task, ASearchFindsWhatTheCallerSees) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  const container::Child outer = nested_namespaces(2);
  ASSERT_TRUE(outer.ok());
  const std::string id = std::to_string(outer.pid());
  const auto children = read_file("/proc/" + id + "/task/" + id + "/children");
  ASSERT_TRUE(children);
  const pid_t inner = std::stoi(*children);
  EXPECT_EQ(*search_task(outer.pid(), 1), outer.pid());
  EXPECT_EQ(*search_task(outer.pid(), 2), inner);
  EXPECT_EQ(*search_task(inner, 1), inner);
  EXPECT_EQ(*search_task(::getpid(), inner), inner);
  EXPECT_EQ(search_task(inner, 2).error().code, ESRCH);
  EXPECT_EQ(search_task(outer.pid(), 3).error().code, ESRCH);
}

// A machine may have a hundred thousand threads that are none of its business.
TEST(Task, ASearchReadsNothingOfOthers) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  const container::Child caller(CLONE_NEWPID), other(CLONE_NEWPID), host;
  ASSERT_TRUE(caller.ok() && other.ok() && host.ok());
  const UniqueFd opened(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  for (const pid_t pid : {other.pid(), host.pid()})
    for (const char* name : {"/status", "/task"})
      ASSERT_GE(::inotify_add_watch(opened.get(), ("/proc/" + std::to_string(pid) + name).c_str(),
                                    IN_OPEN),
                0);
  char events[4096];
  EXPECT_EQ(search_task(caller.pid(), 4711).error().code, ESRCH);
  EXPECT_LT(::read(opened.get(), events, sizeof events), 0);
  EXPECT_EQ(*search_task(::getpid(), host.pid()), host.pid());
  EXPECT_GT(::read(opened.get(), events, sizeof events), 0) << "the watch sees nothing";
}

TEST(Task, ReadsAndSetsAffinity) {
  const pid_t self = static_cast<pid_t>(::syscall(SYS_gettid));
  const auto before = get_affinity(self);
  ASSERT_TRUE(before);
  EXPECT_TRUE(set_affinity(self, before->first(1)));
  EXPECT_EQ(get_affinity(self)->count(), 1U);
  EXPECT_TRUE(set_affinity(self, *before));
  EXPECT_EQ(set_affinity(self, CpuSet::range(8000, 8001)).error().code, EINVAL);
  EXPECT_EQ(get_affinity(-1).error().code, ESRCH);
}

}  // namespace
}  // namespace umwelt::intercept
