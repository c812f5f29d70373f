// SPDX-License-Identifier: Apache-2.0
#include "base/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
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

using Clock = std::chrono::steady_clock;
using Deadline = std::optional<Clock::time_point>;

Deadline deadline_of(std::optional<std::chrono::milliseconds> patience) {
  return patience ? Deadline(Clock::now() + *patience) : std::nullopt;
}

bool readable_until(int fd, Deadline deadline) {
  if (!deadline) return true;
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline - Clock::now());
    pollfd entry{fd, POLLIN, 0};
    const int ready = ::poll(&entry, 1, std::max(0, static_cast<int>(left.count())));
    if (ready >= 0 || errno != EINTR) return ready != 0;
  }
}

// Up to the end of what comes through `pipe`, or beyond `most`; false: that has not come in time.
bool read_until(int pipe, Deadline deadline, std::size_t most, std::string& text) {
  std::array<char, 4096> block;
  while (text.size() <= most) {
    if (!readable_until(pipe, deadline)) return false;
    const ssize_t n = ::read(pipe, block.data(), block.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return true;
    text.append(block.data(), static_cast<std::size_t>(n));
  }
  return true;
}

[[noreturn]] void become(const std::vector<std::string>& command, int output) {
  (void)die_with_parent(true);
  ::setsid();
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  if (::dup2(null, STDIN_FILENO) < 0 || ::dup2(output, STDOUT_FILENO) < 0 ||
      ::dup2(null, STDERR_FILENO) < 0)
    ::_exit(127);
  ::syscall(SYS_close_range, STDERR_FILENO + 1U, ~0U, CLOSE_RANGE_CLOEXEC);
  ::execv(argv[0], argv.data());
  ::_exit(127);
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

void close_all_but(std::vector<int> kept) {
  std::sort(kept.begin(), kept.end());
  unsigned next = 0;
  for (const int fd : kept) {
    if (fd < 0) continue;
    const auto number = static_cast<unsigned>(fd);
    if (number > next) ::syscall(SYS_close_range, next, number - 1, 0U);
    next = number + 1;
  }
  ::syscall(SYS_close_range, next, ~0U, 0U);
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
  if (!read_until(reader.get(), deadline_of(patience), text.max_size(), text)) {
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

Result<std::string> output_of(const std::vector<std::string>& command, std::size_t most,
                              std::chrono::milliseconds patience) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const auto child = UMWELT_TRY(clone_child(0));
  if (!child) become(command, writer.get());
  writer.reset();
  const Deadline deadline = deadline_of(patience);
  std::string text;
  const bool ended = read_until(reader.get(), deadline, most, text) && text.size() <= most &&
                     readable_until(child->pidfd.get(), deadline);
  if (!ended) {
    ::kill(-child->pid, SIGKILL);
    ::kill(child->pid, SIGKILL);
  }
  const int code = UMWELT_TRY(wait_exit_code(child->pidfd.get()));
  if (!ended) return fail(text.size() > most ? EFBIG : ETIMEDOUT, "run " + command.front());
  if (code != 0) return fail(0, fmt::format("{}: exit code {}", command.front(), code));
  return text;
}

}  // namespace umwelt
