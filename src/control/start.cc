// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/file.h"
#include "base/parse.h"
#include "container/json_fields.h"
#include "control/client.h"

namespace umwelt::control {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kPollInterval{10};
constexpr std::chrono::seconds kFilesPatience{2};

bool nobody_there(const Error& error) {
  return error.code == ENOENT || error.code == ECONNREFUSED || error.code == ECONNRESET;
}

// Of a daemon that was just started, which mounts the files again in running containers: a command
// in one of them needs them. No longer than one that does not answer is waited for
// (launch/attach.h).
void wait_for_files(Client& client) {
  const Clock::time_point deadline = Clock::now() + kFilesPatience;
  while (Clock::now() < deadline) {
    bool attached = true;
    const auto reply = client.call({{"op", "ping"}});
    if (!reply || !container::read_field(*reply, "attached", attached) || attached) return;
    std::this_thread::sleep_for(kPollInterval);
  }
}

Result<Client> connect_and_ping(const std::string& socket_path) {
  Client client = UMWELT_TRY(Client::connect(socket_path));
  UMWELT_CHECK(client.call({{"op", "ping"}}));
  return client;
}

bool executable(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
         ::access(path.c_str(), X_OK) == 0;
}

// Of this program. A file that is mounted nowhere has no path but "/"; such a process has it for
// its name.
std::string own_folder() {
  std::string path = program_path();
  if (path.size() <= 1) path = program_invocation_name;
  return path.substr(0, path.rfind('/') + 1);
}

// Beside this program, in the sbin beside its bin, in PATH.
Result<std::string> find_daemon() {
  std::vector<std::string> folders;
  if (const std::string folder = own_folder(); folder.starts_with('/'))
    folders = {folder, folder + "../sbin"};
  const char* path = std::getenv("PATH");
  std::string_view rest = path == nullptr ? "/usr/local/sbin:/usr/sbin:/sbin" : path;
  while (!rest.empty()) {
    const std::string_view folder = next_part(rest, ':');
    // A relative entry would make the daemon depend on the working directory.
    if (!folder.empty() && folder.front() == '/') folders.emplace_back(folder);
  }
  for (const std::string& folder : folders)
    if (executable(folder + "/umweltd")) return folder + "/umweltd";
  return fail(ENOENT, "umweltd is neither beside umwelt nor in PATH");
}

// In the child, between fork and exec: async-signal-safe calls only.
[[noreturn]] void exec_daemon(char* const* arguments, int null_fd, int log_fd, int report_fd) {
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::setsid();
  // The second fork leaves the daemon to init: the caller's wait() never sees it.
  const pid_t pid = ::fork();
  if (pid != 0) ::_exit(pid < 0 ? 1 : 0);
  const pid_t self = ::getpid();
  (void)!::write(report_fd, &self, sizeof self);
  ::umask(022);
  if (::chdir("/") != 0 || ::dup2(null_fd, 0) < 0 || ::dup2(log_fd, 1) < 0 || ::dup2(log_fd, 2) < 0)
    ::_exit(1);
  // What the user's shell or another program left open would stay open as long as the daemon.
  ::syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
  ::execv(arguments[0], arguments);
  static constexpr char kText[] = "exec of umweltd failed\n";
  (void)!::write(2, kText, sizeof kText - 1);
  ::_exit(127);
}

// Its process, as a pidfd.
Result<UniqueFd> start_daemon(const container::Directories& directories, int log_fd) {
  std::vector<std::string> arguments = {
      UMWELT_TRY(find_daemon()), "--runtime-dir", directories.runtime, "--state-dir",
      directories.state,         "--config",      directories.config,  "--foreground"};
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  UniqueFd null = UMWELT_TRY(open_at(AT_FDCWD, "/dev/null", O_RDWR));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  UniqueFd report(ends[0]), reporter(ends[1]);

  const pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child == 0) exec_daemon(argv.data(), null.get(), log_fd, reporter.get());
  reporter.reset();
  pid_t daemon = 0;
  ssize_t n;
  do {
    n = ::read(report.get(), &daemon, sizeof daemon);
  } while (n < 0 && errno == EINTR);
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (n != sizeof daemon) return fail(EAGAIN, "fork umweltd");
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, daemon, 0)));
  if (!process) return fail_errno("umweltd exited at once");
  return process;
}

bool exited(const UniqueFd& process) {
  pollfd entry{process.get(), POLLIN, 0};
  return ::poll(&entry, 1, 0) == 1;
}

// The last line that was written to the log after `offset`.
std::string last_line(const std::string& log_path, off_t offset) {
  const auto log = open_at(AT_FDCWD, log_path, O_RDONLY);
  if (!log) return {};
  struct stat status {};
  if (::fstat(log->get(), &status) != 0) return {};
  char text[4096];
  offset = std::max(offset, status.st_size - static_cast<off_t>(sizeof text));
  const ssize_t n = ::pread(log->get(), text, sizeof text, offset);
  std::string_view tail = trim(std::string_view(text, n > 0 ? static_cast<std::size_t>(n) : 0));
  const std::size_t line = tail.rfind('\n');
  return std::string(line == std::string_view::npos ? tail : tail.substr(line + 1));
}

// Whoever holds it starts the daemon; the others wait for that one's.
Result<UniqueFd> lock_start(const std::string& path, Clock::time_point deadline) {
  UniqueFd lock = UMWELT_TRY(open_at(AT_FDCWD, path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  while (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return fail_errno("lock " + path);
    if (Clock::now() >= deadline)
      return fail(ETIMEDOUT, "another umwelt is starting the daemon and does not finish");
    std::this_thread::sleep_for(kPollInterval);
  }
  return lock;
}

}  // namespace

Result<Client> connect_or_start(const container::Directories& directories,
                                std::chrono::milliseconds patience) {
  const std::string socket_path = directories.socket();
  Result<Client> client = connect_and_ping(socket_path);
  if (client || !nobody_there(client.error())) return client;

  const Clock::time_point deadline = Clock::now() + patience;
  UMWELT_CHECK(make_directories(directories.runtime));
  const UniqueFd lock = UMWELT_TRY(lock_start(directories.runtime + "/start.lock", deadline));
  client = connect_and_ping(socket_path);
  if (client || !nobody_there(client.error())) return client;

  const std::string log_path = directories.runtime + "/umweltd.log";
  const UniqueFd log =
      UMWELT_TRY(open_at(AT_FDCWD, log_path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0640));
  const off_t log_start = ::lseek(log.get(), 0, SEEK_END);
  const UniqueFd process = UMWELT_TRY(start_daemon(directories, log.get()));
  for (;;) {
    const bool gone = exited(process);  // before the last attempt: it may have forked itself away
    client = connect_and_ping(socket_path);
    if (client) wait_for_files(*client);
    if (client || !nobody_there(client.error())) return client;
    if (gone) {
      const std::string reason = last_line(log_path, log_start);
      return fail(0, "umweltd does not start: " + (reason.empty() ? "see " + log_path : reason));
    }
    if (Clock::now() >= deadline)
      return fail(ETIMEDOUT, "umweltd does not answer on " + socket_path + ", see " + log_path);
    std::this_thread::sleep_for(kPollInterval);
  }
}

}  // namespace umwelt::control
