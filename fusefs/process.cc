// SPDX-License-Identifier: Apache-2.0
#include "fusefs/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <future>
#include <thread>

#include "base/file.h"
#include "base/parse.h"
#include "cgroup/parse.h"

namespace umwelt::fusefs {

constexpr std::size_t kMaxTasks = 4096;  // of a server

pid_t pid_of(int pidfd) {
  const auto text = read_file(fmt::format("/proc/self/fdinfo/{}", pidfd), 4096);
  if (!text) return 0;
  const std::size_t at = text->find("\nPid:");
  if (at == std::string::npos) return 0;
  const std::size_t begin = at + 5;
  const auto pid = parse_u64(trim(text->substr(begin, text->find('\n', begin) - begin)));
  return pid ? static_cast<pid_t>(*pid) : 0;
}

bool only_sleeps_uninterruptibly(pid_t pid) {
  const std::string folder = fmt::format("/proc/{}/task", pid);
  const auto tasks = read_names_at(AT_FDCWD, folder, kMaxTasks);
  if (!tasks) return false;
  for (const std::string& task : *tasks) {
    const auto stat = read_file(fmt::format("{}/{}/stat", folder, task), 4096);
    if (!stat) continue;  // ended just now
    const auto state = cgroup::parse_task_state(*stat);
    if (!state || (*state != 'D' && *state != 'Z' && *state != 'X')) return false;
  }
  return true;
}

std::vector<std::string> arguments_for(const std::string& program,
                                       const std::vector<std::string>& arguments) {
  std::vector<std::string> result = {program};
  result.insert(result.end(), arguments.begin(), arguments.end());
  const auto is_foreground = [](const std::string& a) { return a == "--foreground" || a == "-f"; };
  if (std::none_of(arguments.begin(), arguments.end(), is_foreground))
    result.emplace_back("--foreground");
  return result;
}

Result<void> leave_terminal(const std::string& log_path) {
  const UniqueFd null = UMWELT_TRY(open_at(AT_FDCWD, "/dev/null", O_RDWR));
  const UniqueFd log =
      UMWELT_TRY(open_at(AT_FDCWD, log_path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0640));
  if (::chdir("/") != 0 || ::dup2(null.get(), STDIN_FILENO) < 0 ||
      ::dup2(null.get(), STDOUT_FILENO) < 0 || ::dup2(log.get(), STDERR_FILENO) < 0)
    return fail_errno("leave the terminal");
  return {};
}

Result<void> hold_until_death(UniqueFd end) {
  std::promise<int> started;
  auto code = started.get_future();
  std::thread([fd = static_cast<unsigned>(end.get()), &started] {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
    ::pthread_setname_np(::pthread_self(), "life");
    if (::unshare(CLONE_FILES) != 0) return started.set_value(errno);
    if (fd > 0) ::syscall(SYS_close_range, 0U, fd - 1, 0U);
    ::syscall(SYS_close_range, fd + 1, ~0U, 0U);
    started.set_value(0);
    for (;;) ::pause();
  }).detach();
  if (const int error = code.get(); error != 0) return fail(error, "unshare descriptors");
  return {};
}

}  // namespace umwelt::fusefs
