// SPDX-License-Identifier: Apache-2.0
// How many system calls a read costs, counted with ptrace(2) in a child process.
#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>

#include <cstdio>
#include <functional>
#include <optional>

#include "cgroup/reader.h"
#include "real_cgroup.h"
#include "tree.h"

namespace umwelt::cgroup {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// A call that nothing else makes, before and after what is counted.
constexpr long kMarker = 0x756d7765;
void mark() { ::syscall(SYS_getpgid, kMarker); }

bool at_marker(pid_t pid) {
  __ptrace_syscall_info info{};
  return ::ptrace(static_cast<__ptrace_request>(PTRACE_GET_SYSCALL_INFO), pid, sizeof(info),
                  &info) > 0 &&
         info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == SYS_getpgid &&
         info.entry.args[0] == kMarker;
}

// The calls of `counted` after one round that is not counted; nullopt where ptrace is forbidden.
std::optional<unsigned> count_syscalls(const std::function<void()>& counted) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    counted();
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(1);
    ::raise(SIGSTOP);
    mark();
    counted();
    mark();
    ::_exit(0);
  }
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status)) return std::nullopt;
  ::ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  unsigned calls = 0, marks = 0;
  bool entering = true;
  for (;;) {
    if (::ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr) != 0) break;
    if (::waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status)) break;
    if (WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
    if (entering) {
      if (at_marker(pid))
        ++marks;
      else if (marks == 1)
        ++calls;
    }
    entering = !entering;
  }
  return marks == 2 ? std::optional(calls) : std::nullopt;
}

std::string nested(unsigned depth) {
  std::string path;
  for (unsigned level = 0; level < depth; ++level) path += "/n";
  return path;
}

struct Counts {
  unsigned memory = 0, cpu_time = 0, tasks = 0, limits_only = 0;
};

std::optional<Counts> count_reads(Reader& reader) {
  const auto count = [&](unsigned parts) {
    return count_syscalls([&] {
      if (!reader.read(parts)) ::_exit(2);
    });
  };
  const auto memory = count(kMemory), cpu_time = count(kCpuTime), tasks = count(kTasks);
  const auto none = count(0);
  if (!memory || !cpu_time || !tasks || !none) return std::nullopt;
  return Counts{*memory, *cpu_time, *tasks, *none};
}

void expect_at_most_four(const Counts& counts) {
  EXPECT_LE(counts.memory, 4u);
  EXPECT_GE(counts.memory, 1u);
  EXPECT_LE(counts.cpu_time, 4u);
  EXPECT_GE(counts.cpu_time, 1u);
  EXPECT_EQ(counts.limits_only, 0u);
}

// On the running kernel: the limits are set at the container, or at the top of its ancestors.
std::optional<Counts> count_real(unsigned depth, unsigned limited_level) {
  RealCgroup cgroup(nested(depth - 1));
  if (!cgroup.error.empty()) return std::nullopt;
  const bool v2 = cgroup.v2("memory");
  EXPECT_TRUE(
      cgroup.write("memory", v2 ? "memory.max" : "memory.limit_in_bytes", "64M", limited_level));
  if (cgroup.v2("cpu"))
    EXPECT_TRUE(cgroup.write("cpu", "cpu.max", "50000 100000", limited_level));
  else
    EXPECT_TRUE(cgroup.write("cpu", "cpu.cfs_quota_us", "50000", limited_level));
  auto reader = Reader::open(cgroup.hierarchies, cgroup.paths);
  EXPECT_TRUE(reader) << reader.error().message();
  if (!reader) return std::nullopt;
  return count_reads(*reader);
}

TEST(Syscalls, DoNotGrowWithTheDepth) {
  RealCgroup probe;
  REQUIRE_REAL_CGROUP(probe);
  if (kSanitized)
    GTEST_SKIP() << "needs a build without sanitizers: they make system calls of their own";
  if (!count_syscalls([] {})) GTEST_SKIP() << "needs ptrace: not permitted";
  const auto at_1 = count_real(1, 0);
  const auto at_50 = count_real(50, 0);
  ASSERT_TRUE(at_1 && at_50);
  std::printf("syscalls: memory %u, CPU time %u, tasks %u\n", at_1->memory, at_1->cpu_time,
              at_1->tasks);
  expect_at_most_four(*at_1);
  EXPECT_EQ(at_50->memory, at_1->memory);
  EXPECT_EQ(at_50->cpu_time, at_1->cpu_time);
  EXPECT_EQ(at_50->tasks, at_1->tasks);
  EXPECT_LE(at_1->tasks, 12u);
  // An ancestor's limit costs the same whichever ancestor it is.
  const auto parent = count_real(2, 1);
  const auto top = count_real(50, 49);
  ASSERT_TRUE(parent && top);
  std::printf("limited by an ancestor: memory %u, CPU time %u\n", parent->memory, parent->cpu_time);
  expect_at_most_four(*parent);
  EXPECT_EQ(top->memory, parent->memory);
  EXPECT_EQ(top->cpu_time, parent->cpu_time);
}

TEST(Syscalls, LargeFilesAreReadAtOnce) {
  if (kSanitized)
    GTEST_SKIP() << "needs a build without sanitizers: they make system calls of their own";
  if (!count_syscalls([] {})) GTEST_SKIP() << "needs ptrace: not permitted";
  Tree tree;
  Hierarchies hierarchies;
  hierarchies.v1 = {{"cpuacct", "/cpuacct"}};
  std::string usage;
  for (int cpu = 0; cpu < 4096; ++cpu) usage += std::to_string(10'000'000'000LL + cpu) + " ";
  tree.write("cpuacct/a/cpuacct.usage_percpu", usage + "\n");
  tree.write("cpuacct/a/cpuacct.stat", "user 1\nsystem 1\n");
  auto reader = Reader::open(hierarchies, {{"cpuacct", "/a"}}, tree.root());
  ASSERT_TRUE(reader);
  EXPECT_EQ(reader->read(kCpuTime)->cpu_time->per_cpu.size(), 4096u);
  EXPECT_EQ(count_syscalls([&] {
              if (!reader->read(kCpuTime)) ::_exit(2);
            }),
            2u);
}

}  // namespace
}  // namespace umwelt::cgroup
