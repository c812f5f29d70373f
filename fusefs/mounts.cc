// SPDX-License-Identifier: Apache-2.0
#include "fusefs/mounts.h"

#include <libmount/libmount.h>
#include <sys/mount.h>
#include <sys/statfs.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "base/file.h"

namespace umwelt::fusefs {
namespace {

constexpr std::string_view kType = "fuse.umwelt", kLxcfsType = "fuse.lxcfs";

struct TableDeleter {
  void operator()(libmnt_table* table) const { ::mnt_unref_table(table); }
};

// How many mounts of one type are at exactly `path`, and whether one of them is the topmost.
struct Mounts {
  unsigned count = 0;
  bool on_top = false;
};

Result<Mounts> read_mounts(const std::string& path, std::string_view wanted) {
  const std::unique_ptr<libmnt_table, TableDeleter> table(
      ::mnt_new_table_from_file("/proc/self/mountinfo"));
  if (!table) return fail_errno("read /proc/self/mountinfo");
  const std::unique_ptr<libmnt_iter, decltype(&::mnt_free_iter)> iterator(
      ::mnt_new_iter(MNT_ITER_FORWARD), ::mnt_free_iter);
  if (!iterator) return fail(ENOMEM, "read /proc/self/mountinfo");
  Mounts found;
  libmnt_fs* mounted = nullptr;
  while (::mnt_table_next_fs(table.get(), iterator.get(), &mounted) == 0) {
    const char* target = ::mnt_fs_get_target(mounted);
    const char* type = ::mnt_fs_get_fstype(mounted);
    if (target == nullptr || type == nullptr || path != target) continue;
    found.on_top = type == wanted;
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
