// SPDX-License-Identifier: Apache-2.0
#include "base/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>

#include "base/file.h"
#include "base/parse.h"

namespace umwelt {
namespace {

// Up to the end of what comes through `pipe`; false: that has not come in time.
bool read_until(int pipe, std::optional<std::chrono::milliseconds> patience, std::string& text) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + patience.value_or(std::chrono::milliseconds(0));
  std::array<char, 4096> block;
  while (true) {
    if (patience) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
      pollfd entry{pipe, POLLIN, 0};
      const int ready = ::poll(&entry, 1, std::max(0, static_cast<int>(left.count())));
      if (ready == 0) return false;
      if (ready < 0 && errno == EINTR) continue;
    }
    const ssize_t n = ::read(pipe, block.data(), block.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return true;
    text.append(block.data(), static_cast<std::size_t>(n));
  }
}

}  // namespace

Result<std::optional<ChildProcess>> clone_child(std::uint64_t namespaces, int cgroup) {
  int pidfd = -1;
  clone_args args{};
  args.flags = namespaces | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<std::uintptr_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  if (cgroup >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<std::uint64_t>(cgroup);
  }
  const long pid = ::syscall(SYS_clone3, &args, sizeof(args));
  if (pid < 0)
    return fail_errno(cgroup < 0 ? "make a process in new namespaces"
                                 : "make a process in its cgroup and namespaces");
  if (pid == 0) return std::optional<ChildProcess>();
  return std::optional<ChildProcess>(ChildProcess{static_cast<pid_t>(pid), UniqueFd(pidfd)});
}

Result<void> die_with_parent(bool yes) {
  if (::prctl(PR_SET_PDEATHSIG, yes ? SIGKILL : 0) != 0) return fail_errno("prctl");
  return {};
}

Result<int> wait_exit_code(int pidfd) {
  siginfo_t info{};
  int rc;
  do {
    rc = ::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED);
  } while (rc != 0 && errno == EINTR);
  if (rc != 0) return fail_errno("wait for a process");
  return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

Result<std::string> run_apart(const std::function<Result<std::string>()>& work,
                              std::optional<std::chrono::milliseconds> patience) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return fail_errno("fork");
  if (pid == 0) {
    ::close_range(STDIN_FILENO, STDERR_FILENO, 0);  // who waits for their end must not wait for us
    open_standard_descriptors();
    // "ERRNO TEXT", or " TEXT".
    const Result<std::string> result = work();
    const std::string text =
        result ? " " + *result : fmt::format("{} {}", result.error().code, result.error().text);
    (void)!::write(writer.get(), text.data(), text.size());
    ::_exit(0);
  }
  writer.reset();
  std::string text;
  if (!read_until(reader.get(), patience, text)) {
    ::kill(pid, SIGKILL);
    return fail(ETIMEDOUT, "wait for an answer");
  }
  const std::size_t blank = text.find(' ');
  if (blank == std::string::npos) return fail(0, "a process that was to do it has crashed");
  const auto code = parse_u64(std::string_view(text).substr(0, blank));
  if (code != ETIMEDOUT)
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  if (blank == 0) return text.substr(1);
  return fail(static_cast<int>(code.value_or(0)), text.substr(blank + 1));
}

}  // namespace umwelt
