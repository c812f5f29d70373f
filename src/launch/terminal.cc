// SPDX-License-Identifier: Apache-2.0
#include "launch/terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/file.h"
#include "launch/mounts.h"

namespace umwelt::launch {

Result<Terminal> open_terminal(uid_t owner) {
  Terminal terminal;
  const UniqueFd root = UMWELT_TRY(open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY));
  terminal.master = UMWELT_TRY(open_plain(root.get(), "dev/pts/ptmx", O_RDWR | O_NOCTTY));
  struct stat st {};
  // 5,2 is ptmx (Documentation/admin-guide/devices.txt).
  if (::fstat(terminal.master.get(), &st) != 0 || !S_ISCHR(st.st_mode) ||
      st.st_rdev != makedev(5, 2))
    return fail(0, "the container's /dev/pts/ptmx is no terminal multiplexer");
  int locked = 0;
  if (::ioctl(terminal.master.get(), TIOCSPTLCK, &locked) != 0) return fail_errno("unlock a pty");
  terminal.slave.reset(::ioctl(terminal.master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!terminal.slave) return fail_errno("open a pty");
  if (::fchown(terminal.slave.get(), owner, static_cast<gid_t>(-1)) != 0)
    return fail_errno("give the pty to the user");
  return terminal;
}

Result<void> use_terminal(int slave) {
  if (::ioctl(slave, TIOCSCTTY, 0) != 0) return fail_errno("take the terminal");
  for (int fd : {0, 1, 2})
    if (::dup2(slave, fd) < 0) return fail_errno("use the terminal");
  return {};
}

RawMode::RawMode() {
  termios mode{};
  if (::tcgetattr(STDIN_FILENO, &mode) != 0) return;
  saved_ = mode;
  ::cfmakeraw(&mode);
  ::tcsetattr(STDIN_FILENO, TCSANOW, &mode);
}

RawMode::~RawMode() {
  if (saved_) ::tcsetattr(STDIN_FILENO, TCSADRAIN, &*saved_);
}

void copy_window_size(int master) {
  winsize size{};
  if (::ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0 ||
      ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0)
    ::ioctl(master, TIOCSWINSZ, &size);
}

}  // namespace umwelt::launch
