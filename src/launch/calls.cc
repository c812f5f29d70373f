// SPDX-License-Identifier: Apache-2.0
#include "launch/calls.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"
#include "base/parse.h"
#include "intercept/notice.h"
#include "intercept/paths.h"
#include "intercept/process_state.h"
#include "launch/namespaces.h"

namespace umwelt::launch {

Result<intercept::Fallback> give_listener(const container::Directories& directories,
                                          const std::string& id, UniqueFd listener) {
  UniqueFd notice = UMWELT_TRY(intercept::Notice::create());
  const std::string socket = intercept::socket_path(directories.runtime);
  UMWELT_CHECK(intercept::hand_over(socket, id, listener.get(), notice.get()));
  return intercept::Fallback::make({directories.runtime, id}, std::move(listener),
                                   std::move(notice));
}

Result<void> close_inherited() {
  for (const std::string& name : UMWELT_TRY(read_names_at(AT_FDCWD, "/proc/self/fd"))) {
    const int fd = static_cast<int>(parse_u64(name).value_or(0));
    const int flags = ::fcntl(fd, F_GETFD);
    if (fd > STDERR_FILENO && flags >= 0 && (flags & FD_CLOEXEC) == 0) ::close(fd);
  }
  return {};
}

Result<void> leave_behind(intercept::Fallback& fallback) {
  // Not in those that this process has entered for its child.
  const UniqueFd self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!self) return fail_errno("pidfd_open");
  UMWELT_CHECK(join_namespaces(self.get(), CLONE_NEWPID | CLONE_NEWTIME));
  UMWELT_CHECK(close_inherited());  // before the caller goes on
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("make a process for the fallback");
  if (child > 0) return {};
  ::setsid();
  if (const auto null = open_at(AT_FDCWD, "/dev/null", O_RDWR))
    for (const int fd : {0, 1, 2}) ::dup2(null->get(), fd);
  if (::chdir("/") != 0) ::_exit(1);
  fallback.run();
  ::_exit(0);
}

}  // namespace umwelt::launch
