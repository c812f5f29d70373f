// SPDX-License-Identifier: Apache-2.0
#include "intercept/stand_in.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>

#include "base/file.h"
#include "container/record.h"
#include "intercept/fallback.h"
#include "intercept/paths.h"
#include "intercept/process_state.h"

namespace umwelt::intercept {
namespace {

using namespace std::chrono_literals;

constexpr int kIdleMs = 10'000;
constexpr auto kPatience = 2s;  // with a runtime that sends its message in pieces
constexpr int kSocket = 3;

// Bound under another name: the path leads to a socket at every moment.
Result<UniqueFd> listen_in_place(const std::string& runtime) {
  const UniqueFd lock =
      UMWELT_TRY(open_at(AT_FDCWD, container::Directories{.runtime = runtime}.lock(),
                         O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) return fail(EBUSY, "a daemon starts");
  const std::string path = socket_path(runtime), temporary = path + "~";
  UniqueFd socket = UMWELT_TRY(listen_on(temporary));
  if (::rename(temporary.c_str(), path.c_str()) != 0) return fail_errno("rename " + temporary);
  return socket;
}

void let_through(Handed handed, const std::string& runtime) {
  const std::string id = named_container(handed.state);
  auto notice = Notice::create();
  if (!notice) return;
  auto fallback = Fallback::make({runtime, id}, std::move(handed.listener), *std::move(notice),
                                 Fallback::Daemon::kIsAway);
  if (fallback) fallback->run();
}

void serve(const std::string& runtime) {
  for (;;) {
    pollfd entry{kSocket, POLLIN, 0};
    if (::poll(&entry, 1, kIdleMs) == 0) return;
    const UniqueFd connection(::accept4(kSocket, nullptr, nullptr, SOCK_CLOEXEC));
    if (!connection) continue;
    auto handed = receive_handed(connection.get(), kPatience);
    // Our launcher has a fallback of its own, and waits for a daemon.
    if (!handed || handed->notice || ::fork() != 0) continue;
    ::close(kSocket);
    let_through(*std::move(handed), runtime);
    return;
  }
}

// Neither the caller's session nor anything that somebody waits for the end of.
void leave_caller(int socket) {
  ::setsid();
  ::signal(SIGCHLD, SIG_IGN);
  (void)!::chdir("/");
  const UniqueFd copy(::fcntl(socket, F_DUPFD_CLOEXEC, kSocket + 1));
  ::dup2(copy.get(), kSocket);
  ::syscall(SYS_close_range, kSocket + 1U, ~0U, 0U);
  if (const auto null = open_at(AT_FDCWD, "/dev/null", O_RDWR))
    for (const int fd : {0, 1, 2}) ::dup2(null->get(), fd);
}

}  // namespace

Result<void> start_stand_in(const std::string& runtime) {
  if (somebody_listens(socket_path(runtime))) return {};
  const UniqueFd socket = UMWELT_TRY(listen_in_place(runtime));
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child > 0) return {};
  leave_caller(socket.get());
  serve(runtime);
  ::_exit(0);
}

}  // namespace umwelt::intercept
