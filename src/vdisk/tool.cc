// SPDX-License-Identifier: Apache-2.0
#include "vdisk/tool.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "base/parse.h"
#include "base/unique_fd.h"

namespace umwelt::vdisk {
namespace {

constexpr std::size_t kMaxOutputBytes = 64U << 10;
constexpr int kTickMs = 200, kChangesFd = 3;

std::string package_of(const std::string& tool) {
  return tool.ends_with("erofs") ? "erofs-utils" : "e2fsprogs";
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& s : strings) result.push_back(s.data());
  result.push_back(nullptr);
  return result;
}

struct SpawnSettings {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;

  SpawnSettings() {
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
  }
  ~SpawnSettings() {
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;
};

Result<pid_t> spawn(std::vector<std::string> arguments, std::vector<std::string> environment,
                    int output, int changes) {
  SpawnSettings settings;
  ::posix_spawn_file_actions_addopen(&settings.actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&settings.actions, output, 1);
  ::posix_spawn_file_actions_adddup2(&settings.actions, output, 2);
  // The daemon blocks signals that a tool must not start out with blocked.
  sigset_t blocked;
  sigemptyset(&blocked);
  if (changes >= 0) {
    ::posix_spawn_file_actions_adddup2(&settings.actions, changes, kChangesFd);
    for (const int signal : {SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM})
      sigaddset(&blocked, signal);
  }
  ::posix_spawnattr_setsigmask(&settings.attributes, &blocked);
  ::posix_spawnattr_setflags(&settings.attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t pid = 0;
  const int code =
      ::posix_spawn(&pid, arguments[0].c_str(), &settings.actions, &settings.attributes,
                    pointers(arguments).data(), pointers(environment).data());
  if (code != 0) return fail(code, "run " + arguments[0]);
  return pid;
}

// Until everybody has closed the other end.
std::string read_output(int fd, const std::function<void()>& tick) {
  std::string output;
  char buffer[4096];
  for (;;) {
    pollfd poll_fd{fd, POLLIN, 0};
    const int ready = ::poll(&poll_fd, 1, tick ? kTickMs : -1);
    if (tick) tick();
    if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return output;
    output.append(buffer, std::min(static_cast<std::size_t>(n), kMaxOutputBytes - output.size()));
  }
}

std::string last_line(std::string_view output) {
  std::string_view last;
  while (const auto line = next_line(output))
    if (!trim(*line).empty()) last = trim(*line);
  return std::string(last.substr(0, 300));
}

}  // namespace

Result<std::string> find_tool(const std::string& name) {
  for (const char* directory :
       {"/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"}) {
    std::string path = fmt::format("{}/{}", directory, name);
    if (::access(path.c_str(), X_OK) == 0) return path;
  }
  return fail(0, fmt::format("{} is missing: apt-get install {}", name, package_of(name)));
}

Result<ToolResult> run_tool(std::vector<std::string> arguments,
                            const std::vector<std::string>& environment,
                            const std::function<void()>& tick, int changes) {
  arguments[0] = UMWELT_TRY(find_tool(arguments[0]));
  std::vector<std::string> whole = {"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  whole.insert(whole.end(), environment.begin(), environment.end());
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  UniqueFd reader(ends[0]), writer(ends[1]);
  const pid_t pid =
      UMWELT_TRY(spawn(std::move(arguments), std::move(whole), writer.get(), changes));
  writer.reset();
  ToolResult result;
  result.output = read_output(reader.get(), tick);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return fail_errno("wait for a tool");
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

Result<std::string> check_tool(std::vector<std::string> arguments,
                               const std::vector<std::string>& environment,
                               const std::function<void()>& tick, int changes) {
  const std::string name = arguments[0];
  ToolResult result = UMWELT_TRY(run_tool(std::move(arguments), environment, tick, changes));
  if (result.exit_code != 0)
    return fail(EIO, fmt::format("{} (exit code {}: {})", name, result.exit_code,
                                 last_line(result.output)));
  return std::move(result.output);
}

std::string path_of(int fd) { return fmt::format("/proc/{}/fd/{}", ::getpid(), fd); }

}  // namespace umwelt::vdisk
