// SPDX-License-Identifier: Apache-2.0
#include "intercept/guard.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>

#include "base/descriptor_message.h"
#include "base/file.h"
#include "container/record.h"
#include "intercept/fallback.h"

namespace umwelt::intercept {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr int kSocket = 3;
constexpr std::size_t kMaxIdBytes = 256;
constexpr timeval kSendLimit{0, 100'000};
constexpr auto kLookInterval = 200ms;
// A daemon that listens but does not take a listener: the others' calls are not to wait for it too.
constexpr auto kSlow = 500ms, kAfterSlow = 1000ms;

// Leaves nothing of the caller's but the socket.
bool become_guard(int socket) {
  if (socket != kSocket && ::dup2(socket, kSocket) < 0) return false;
  if (::syscall(SYS_close_range, kSocket + 1, ~0U, 0U) != 0) return false;
  if (const auto null = open_at(AT_FDCWD, "/dev/null", O_RDWR))
    for (const int fd : {0, 1, 2}) ::dup2(null->get(), fd);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::prctl(PR_SET_NAME, kGuardName);
  return ::setsid() >= 0 && ::chdir("/") == 0;
}

class Watch {
 public:
  explicit Watch(std::string runtime) : runtime_(std::move(runtime)) {}

  void run() {
    while (socket_ || !fallbacks_.empty()) {
      wait();
      if (entries_[0].revents != 0) receive();
      serve();
      std::erase_if(fallbacks_, [](const Fallback& fallback) { return fallback.is_over(); });
    }
  }

 private:
  void wait() {
    entries_.assign(1, {socket_.get(), POLLIN, 0});
    int timeout = -1;
    for (const Fallback& fallback : fallbacks_) {
      entries_.push_back({fallback.fd(), POLLIN, 0});
      entries_.push_back({fallback.listener(), 0, 0});
      const int limit = fallback.timeout_ms();
      if (limit >= 0 && (timeout < 0 || limit < timeout)) timeout = limit;
    }
    ::poll(entries_.data(), entries_.size(), timeout);
  }

  void receive() {
    std::array<char, kMaxIdBytes> id;
    std::vector<UniqueFd> descriptors;
    const ssize_t n = receive_message(kSocket, id, descriptors, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) socket_.reset();
    if (n <= 0 || descriptors.size() != 2) return;
    auto fallback = Fallback::make({runtime_, {id.data(), static_cast<std::size_t>(n)}},
                                   std::move(descriptors[0]), std::move(descriptors[1]));
    if (fallback) fallbacks_.push_back(*std::move(fallback));
  }

  // What wait() told of, and all of them now and then.
  void serve() {
    const auto now = Clock::now();
    const bool all = now >= next_look_;
    for (std::size_t i = 0; i < fallbacks_.size(); ++i) {
      const std::size_t entry = 1 + 2 * i;  // none: just received
      if (all || (entry + 1 < entries_.size() &&
                  (entries_[entry].revents | entries_[entry + 1].revents) != 0))
        fallbacks_[i].serve();
    }
    if (!all) return;
    next_look_ = now + kLookInterval;
    for (Fallback& fallback : fallbacks_) {
      fallback.look_for_daemon();
      if (Clock::now() - now < kSlow) continue;
      next_look_ = Clock::now() + kAfterSlow;
      return;
    }
  }

  const std::string runtime_;
  UniqueFd socket_{kSocket};
  std::vector<Fallback> fallbacks_;
  std::vector<pollfd> entries_;  // the socket, and two for each fallback that was there
  Clock::time_point next_look_{};
};

}  // namespace

Result<Guard> Guard::start(const std::string& runtime) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return fail_errno("socketpair");
  UniqueFd mine(ends[0]), theirs(ends[1]);
  (void)::setsockopt(mine.get(), SOL_SOCKET, SO_SNDTIMEO, &kSendLimit, sizeof kSendLimit);
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("start a process for the fallback");
  if (child == 0) {
    // Its end is waited for by nobody of ours.
    const pid_t guard = ::fork();
    if (guard == 0 && become_guard(theirs.release())) Watch(runtime).run();
    ::_exit(guard < 0 ? 1 : 0);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return fail(EAGAIN, "start a process for the fallback");
  return Guard(std::move(mine));
}

Result<void> Guard::add(const std::string& id, int listener, int notice) const {
  if (!container::valid_id(id) || id.size() > kMaxIdBytes) return fail(EINVAL, "container " + id);
  const int descriptors[] = {listener, notice};
  if (send_message(socket_.get(), id, descriptors) < 0)
    return fail_errno("give " + id + " to " + kGuardName);
  return {};
}

}  // namespace umwelt::intercept
