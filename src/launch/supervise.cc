// SPDX-License-Identifier: Apache-2.0
#include "launch/supervise.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <climits>
#include <csignal>
#include <filesystem>

#include "base/child_process.h"
#include "base/file.h"
#include "base/parse.h"
#include "launch/cgroup.h"
#include "launch/namespaces.h"
#include "launch/terminal.h"

namespace umwelt::launch {
namespace {

constexpr int kForwarded[] = {SIGINT,  SIGTERM, SIGHUP,  SIGQUIT,
                              SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH};
constexpr int kEnding[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

void send(int pidfd, int signal) { ::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0); }

// What `fd` takes now; the rest stays in `bytes`. EPIPE and the like: nobody wants it any more,
// which is no reason to end the container.
void write_some(int fd, std::string& bytes) {
  // A pipe that poll(2) finds writable takes this much without waiting (pipe(7)).
  const ssize_t n = ::write(fd, bytes.data(), std::min<std::size_t>(bytes.size(), PIPE_BUF));
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
  bytes.erase(0, n < 0 ? bytes.size() : static_cast<std::size_t>(n));
}

// True when in doubt.
bool process_handles(pid_t pid, int signal) {
  std::error_code error;
  std::filesystem::directory_iterator it(fmt::format("/proc/{}/task", pid), error);
  for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const auto status = read_file(it->path().string() + "/status");
    const auto syscall = read_file(it->path().string() + "/syscall");
    if (!status || !syscall || handles_signal(*status, *syscall, signal)) return true;
  }
  return bool(error);
}

class Supervisor {
  // At a time, so that endless output does not keep signals waiting; when the process has ended,
  // what it has left behind, also if others go on writing.
  static constexpr int kReads = 4, kLastReads = 256;
  // How often the terminal's mode is looked at when the input has ended.
  static constexpr int kModePatienceMs = 200;

 public:
  Supervisor(Supervised supervised, int signals)
      : supervised_(std::move(supervised)), signals_(signals) {
    for (const UniqueFd* fd : {&supervised_.master, &supervised_.out, &supervised_.err})
      if (*fd) ::fcntl(fd->get(), F_SETFL, ::fcntl(fd->get(), F_GETFL) | O_NONBLOCK);
  }

  // A stream that takes nothing at the moment holds up only what is for it.
  Result<int> run() {
    intercept::Fallback* fallback = supervised_.fallback;
    while (!ended_ || !output_.empty()) {
      const int master = supervised_.master.get();
      const bool wants_input = supervised_.relay_stdin && input_.empty();
      std::array<pollfd, 9> fds = {pollfd{ended_ ? -1 : supervised_.pidfd, POLLIN, 0},
                                   pollfd{signals_, POLLIN, 0},
                                   pollfd{output_.empty() ? master : -1, POLLIN, 0},
                                   pollfd{supervised_.out.get(), POLLIN, 0},
                                   pollfd{supervised_.err.get(), POLLIN, 0},
                                   pollfd{wants_input ? STDIN_FILENO : -1, POLLIN, 0},
                                   pollfd{fallback ? fallback->fd() : -1, POLLIN, 0},
                                   pollfd{input_.empty() ? -1 : master, POLLOUT, 0},
                                   pollfd{output_.empty() ? -1 : STDOUT_FILENO, POLLOUT, 0}};
      const int ready = ::poll(fds.data(), fds.size(), timeout_ms());
      if (ready < 0) {
        if (errno == EINTR) continue;
        return fail_errno("poll");
      }
      if (ready == 0) repeat_end_of_input();
      if (fallback != nullptr && (ready == 0 || fds[6].revents != 0)) fallback->step();
      if (fds[1].revents != 0) pass_signal();
      if (fds[5].revents != 0) read_input();
      if (fds[7].revents != 0) write_some(master, input_);
      if (fds[8].revents != 0) write_some(STDOUT_FILENO, output_);
      if (ended_) continue;
      ended_ = fds[0].revents != 0;
      if (ended_) supervised_.relay_stdin = false;
      const int reads = ended_ ? kLastReads : kReads;
      relay(supervised_.master, "stdout", reads);
      relay(supervised_.out, "stdout", reads);
      relay(supervised_.err, "stderr", reads);
      if (ended_) UMWELT_CHECK(reap());
    }
    return exit_code_;
  }

 private:
  Result<void> reap() {
    if (supervised_.log != nullptr) (void)supervised_.log->flush();
    const int code = UMWELT_TRY(wait_exit_code(supervised_.pidfd));
    exit_code_ = killed_by_ ? 128 + *killed_by_ : code;
    if (supervised_.ended) supervised_.ended(exit_code_);
    return {};
  }

  int timeout_ms() const {
    const int fallback_ms = supervised_.fallback ? supervised_.fallback->timeout_ms() : -1;
    if (!input_ended_) return fallback_ms;
    return fallback_ms < 0 ? kModePatienceMs : std::min(fallback_ms, kModePatienceMs);
  }

  void pass_signal() {
    signalfd_siginfo info{};
    if (::read(signals_, &info, sizeof(info)) != sizeof(info)) return;
    const int signal = static_cast<int>(info.ssi_signo);
    if (signal == SIGWINCH && supervised_.master) {
      copy_window_size(supervised_.master.get());
      return;
    }
    for (const int ending : kEnding) {
      if (signal != ending) continue;
      if (ended_) return output_.clear();
      if (process_handles(supervised_.pid, signal)) break;
      killed_by_ = signal;
      send(supervised_.pidfd, SIGKILL);
      if (!supervised_.container.empty()) thaw(supervised_.container);
      return;
    }
    send(supervised_.pidfd, signal);
  }

  void read_input() {
    std::array<char, 4096> buffer;
    const ssize_t n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (n > 0) {
      input_.assign(buffer.data(), static_cast<std::size_t>(n));
      within_line_ = input_.back() != '\n' && input_.back() != '\r';
      return;
    }
    // The end of a file or pipe, as a terminal says it: within a line the first one ends that.
    input_ = within_line_ ? "\x04\x04" : "\x04";
    supervised_.relay_stdin = false;
    input_ended_ = told_in_lines_ = true;
  }

  // A shell that edits its line itself switches the terminal to single characters for that, and
  // what was an end of lines is none then.
  void repeat_end_of_input() {
    termios mode{};
    if (!input_ended_ || !input_.empty() || !supervised_.master ||
        ::tcgetattr(supervised_.master.get(), &mode) != 0)
      return;
    const bool lines = (mode.c_lflag & ICANON) != 0;
    if (!lines && told_in_lines_) input_ = "\x04";
    told_in_lines_ = lines;
  }

  void relay(UniqueFd& from, const char* stream, int reads) {
    std::array<char, 65536> buffer;
    while (from && reads-- > 0 && (ended_ || output_.empty())) {
      const ssize_t n = ::read(from.get(), buffer.data(), buffer.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) {  // EIO: no process has the terminal open any more
        from.reset();
        return;
      }
      const std::string_view bytes(buffer.data(), static_cast<std::size_t>(n));
      if (supervised_.log == nullptr)
        output_ += bytes;
      else
        (void)supervised_.log->append(stream, bytes);  // a full disk must not stop the container
    }
  }

  Supervised supervised_;
  int signals_;
  bool ended_ = false, within_line_ = false;
  bool input_ended_ = false, told_in_lines_ = false;
  std::string input_, output_;  // of the terminal, not written yet
  std::optional<int> killed_by_;
  int exit_code_ = 0;
};

}  // namespace

Result<UniqueFd> block_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : kForwarded) {
    // One that is ignored stays so: it is for nohup(1), or a script's background job.
    struct sigaction action {};
    if (::sigaction(signal, nullptr, &action) != 0 || action.sa_handler != SIG_IGN)
      ::sigaddset(&set, signal);
  }
  if (::sigprocmask(SIG_BLOCK, &set, nullptr) != 0) return fail_errno("block signals");
  sigset_t stop;
  ::sigemptyset(&stop);
  ::sigaddset(&stop, SIGTSTP);
  if (::sigprocmask(SIG_BLOCK, &stop, nullptr) != 0) return fail_errno("block SIGTSTP");
  ::signal(SIGPIPE, SIG_IGN);
  UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return fail_errno("signalfd");
  return fd;
}

Result<int> supervise(Supervised supervised, int signals) {
  std::optional<RawMode> raw;
  if (supervised.relay_stdin) raw.emplace();
  return Supervisor(std::move(supervised), signals).run();
}

bool handles_signal(std::string_view status, std::string_view syscall, int signal) {
  if (parse_u64(next_word(syscall)) == SYS_rt_sigtimedwait) return true;
  while (auto line = next_line(status)) {
    const std::string_view key = line->substr(0, line->find(':'));
    if (key != "SigBlk" && key != "SigIgn" && key != "SigCgt") continue;
    const std::string_view hex = trim(line->substr(std::min(line->size(), key.size() + 1)));
    std::uint64_t mask = 0;
    std::from_chars(hex.data(), hex.data() + hex.size(), mask, 16);
    if (mask >> (signal - 1) & 1) return true;
  }
  return false;
}

}  // namespace umwelt::launch
