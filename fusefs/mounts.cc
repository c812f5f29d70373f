// SPDX-License-Identifier: Apache-2.0
#include "fusefs/mounts.h"

#include <sys/mount.h>
#include <sys/statfs.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <string_view>

#include "base/file.h"
#include "base/parse.h"

namespace umwelt::fusefs {
namespace {

constexpr std::string_view kType = "fuse.umwelt", kLxcfsType = "fuse.lxcfs";

// How many mounts of one type are at exactly `path`, and whether one of them is the topmost.
struct Mounts {
  unsigned count = 0;
  bool on_top = false;
};

Result<Mounts> read_mounts(const std::string& path, std::string_view wanted) {
  const std::string text = UMWELT_TRY(read_file("/proc/self/mountinfo"));
  std::string_view rest = text;
  Mounts found;
  while (auto line = next_line(rest)) {
    for (int field = 1; field <= 4; ++field) next_word(*line);
    if (unescape_octal(next_word(*line)) != path) continue;
    while (!line->empty() && next_word(*line) != "-") continue;
    found.on_top = next_word(*line) == wanted;
    if (found.on_top) ++found.count;
  }
  return found;
}

}  // namespace

Result<std::string> real_directory(const std::string& path) {
  UMWELT_CHECK(make_directories(path));
  char resolved[PATH_MAX];
  if (::realpath(path.c_str(), resolved) == nullptr) return fail_errno("realpath " + path);
  return std::string(resolved);
}

Result<bool> is_own(const std::string& path) { return UMWELT_TRY(read_mounts(path, kType)).on_top; }

Result<void> unmount_own(const std::string& path) {
  for (;;) {
    const Mounts own = UMWELT_TRY(read_mounts(path, kType));
    if (own.count == 0) return {};
    if (!own.on_top) return fail(EBUSY, "unmount " + path + " (below another mount)");
    if (::umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0)
      return fail_errno("unmount " + path);
  }
}

Result<void> take_lxcfs_place(const std::string& path) {
  struct statfs status {};  // stat(2) may be answered by the kernel alone
  while (::statfs(path.c_str(), &status) != 0 && errno == ENOTCONN)
    if (::umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0)
      return fail_errno("unmount " + path);
  if (UMWELT_TRY(read_mounts(path, kLxcfsType)).on_top)
    return fail(0, "lxcfs serves " + path + ": stop it first ('systemctl disable --now lxcfs')");
  return {};
}

Result<void> bind_mount(const std::string& source, const std::string& target) {
  if (::mount(source.c_str(), target.c_str(), nullptr, MS_BIND, nullptr) != 0)
    return fail_errno("bind " + source + " to " + target);
  return {};
}

}  // namespace umwelt::fusefs
