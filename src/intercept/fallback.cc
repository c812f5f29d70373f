// SPDX-License-Identifier: Apache-2.0
#include "intercept/fallback.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <csignal>

#include "base/file.h"
#include "base/parse.h"
#include "container/record.h"
#include "intercept/paths.h"
#include "intercept/process_state.h"

namespace umwelt::intercept {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kLookInterval = 200ms;
constexpr int kUnknownDaemonMs = 1000;  // when its process can't be waited for
constexpr int kMaxBurst = 256;          // calls between two looks at everything else
constexpr timeval kReceiveLimit{0, 10'000};

// Another reader may take a notification that poll(2) told of: receiving would wait for ever.
class Alarm {
 public:
  Alarm() {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    ::sigaction(SIGALRM, &action, &former_);
    const itimerval timer{kReceiveLimit, kReceiveLimit};
    ::setitimer(ITIMER_REAL, &timer, nullptr);
  }
  ~Alarm() {
    const itimerval none{};
    ::setitimer(ITIMER_REAL, &none, nullptr);
    ::sigaction(SIGALRM, &former_, nullptr);
  }
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;

 private:
  struct sigaction former_ {};
};

bool is_readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  return ::poll(&entry, 1, 0) > 0 && (entry.revents & POLLIN) != 0;
}

seccomp_notif_resp proceed(std::uint64_t id) {
  seccomp_notif_resp response{};
  response.id = id;
  response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
  return response;
}

}  // namespace

Result<Fallback> Fallback::make(Place place, UniqueFd listener, UniqueFd notice, Daemon daemon) {
  Notice memory = UMWELT_TRY(Notice::map(notice.get()));
  Fallback fallback(std::move(place), std::move(listener), std::move(memory), std::move(notice));
  if (daemon == Daemon::kIsAway)
    fallback.state_ = State::kAway;
  else
    fallback.find_daemon();
  return fallback;
}

int Fallback::fd() const {
  if (state_ == State::kOver || state_ == State::kUnsure) return -1;
  return state_ == State::kAway ? listener_.get() : daemon_.get();
}

int Fallback::timeout_ms() const {
  if (state_ == State::kOver) return -1;
  if (state_ != State::kServed) return static_cast<int>(kLookInterval.count());
  return daemon_ ? -1 : kUnknownDaemonMs;
}

// Nobody has to accept the connection: whoever has the control socket, the daemon or what keeps its
// descriptors, goes on with the calls. Not so who has the listeners' socket (stand_in.h).
bool Fallback::daemon_listens() const {
  return somebody_listens(container::Directories{.runtime = place_.runtime}.socket());
}

void Fallback::find_daemon() {
  daemon_.reset();
  const auto text = read_file(container::Directories{.runtime = place_.runtime}.lock(), 64);
  const auto pid = text ? parse_u64(trim(*text)) : std::nullopt;
  if (pid) daemon_.reset(static_cast<int>(::syscall(SYS_pidfd_open, *pid, 0)));
  if (daemon_ && is_readable(daemon_.get())) daemon_.reset();  // dead, its successor is not there
}

void Fallback::step() {
  serve();
  const auto now = Clock::now();
  if (now - looked_ < kLookInterval) return;
  looked_ = now;
  look_for_daemon();
}

void Fallback::serve() {
  if (state_ == State::kOver) return;
  if (is_abandoned(listener_.get())) {
    state_ = State::kOver;
    return;
  }
  if (state_ == State::kServed) {
    if (daemon_ && !is_readable(daemon_.get())) return;
    state_ = State::kUnsure;
  }
  if (state_ == State::kUnsure) {
    if (daemon_listens()) return;
    state_ = State::kAway;
    looked_ = Clock::now();
    // What the daemon had received when it died.
    if (const std::uint64_t id = notice_.notification().id; id != 0)
      (void)notice_.answer(listener_.get(), proceed(id));
  }
  let_through();
}

void Fallback::run() {
  while (state_ != State::kOver) {
    pollfd fds[] = {{fd(), POLLIN, 0}, {listener_.get(), 0, 0}};
    if (::poll(fds, 2, timeout_ms()) >= 0) step();
  }
}

void Fallback::let_through() {
  if (!is_readable(listener_.get())) return;
  const Alarm alarm;
  for (int i = 0; i < kMaxBurst && is_readable(listener_.get()); ++i) {
    if (notice_.receive(listener_.get()))
      (void)notice_.answer(listener_.get(), proceed(notice_.notification().id));
  }
}

void Fallback::look_for_daemon() {
  if (state_ == State::kServed || state_ == State::kOver || !daemon_listens()) return;
  if (!hand_over(socket_path(place_.runtime), place_.id, listener_.get(), notice_fd_.get(), 1s))
    return;
  state_ = State::kServed;
  find_daemon();
}

}  // namespace umwelt::intercept
