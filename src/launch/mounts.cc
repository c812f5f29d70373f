// SPDX-License-Identifier: Apache-2.0
#include "launch/mounts.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>

#include "base/file.h"

namespace umwelt::launch {

Result<UniqueFd> make_filesystem(const std::string& type,
                                 std::initializer_list<MountOption> options, unsigned attributes) {
  const UniqueFd context(::fsopen(type.c_str(), FSOPEN_CLOEXEC));
  if (!context) return fail_errno("open a filesystem of type " + type);
  ::fsconfig(context.get(), FSCONFIG_SET_STRING, "source", type.c_str(), 0);  // as df(1) shows it
  for (const auto& [key, value] : options) {
    const int rc =
        value.empty()
            ? ::fsconfig(context.get(), FSCONFIG_SET_FLAG, key.c_str(), nullptr, 0)
            : ::fsconfig(context.get(), FSCONFIG_SET_STRING, key.c_str(), value.c_str(), 0);
    if (rc != 0) return fail_errno("set option " + key + "=" + value + " of " + type);
  }
  if (::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return fail_errno("make a filesystem of type " + type);
  UniqueFd mount(::fsmount(context.get(), FSMOUNT_CLOEXEC, attributes));
  if (!mount) return fail_errno("mount a filesystem of type " + type);
  return mount;
}

Result<UniqueFd> clone_mount(int dir, const std::string& path, bool recursive) {
  const unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH |
                         (recursive ? static_cast<unsigned>(AT_RECURSIVE) : 0U);
  UniqueFd mount(::open_tree(dir, path.c_str(), flags));
  if (!mount) return fail_errno("open " + path);
  return mount;
}

Result<void> restrict_mount(int mount, std::uint64_t attributes, bool recursive) {
  struct mount_attr attr {};
  attr.attr_set = attributes;
  attr.propagation = MS_PRIVATE;
  const unsigned flags = AT_EMPTY_PATH | (recursive ? static_cast<unsigned>(AT_RECURSIVE) : 0U);
  if (::mount_setattr(mount, "", flags, &attr, sizeof(attr)) != 0)
    return fail_errno("restrict a mount");
  return {};
}

Result<void> attach_mount(int mount, int target) {
  if (::move_mount(mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) != 0)
    return fail_errno("mount");
  return {};
}

Result<void> attach_mount_beneath(int mount, int target) {
  constexpr unsigned kBeneath = 0x200;  // MOVE_MOUNT_BENEATH, which older headers lack
  constexpr unsigned kFlags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH | kBeneath;
  if (::move_mount(mount, "", target, "", kFlags) != 0) return fail_errno("mount beneath");
  return {};
}

Result<UniqueFd> open_target(int root, const std::string& path, TargetKind kind) {
  UniqueFd directory = UMWELT_TRY(open_at(root, ".", O_PATH | O_DIRECTORY));
  std::string done;
  for (std::size_t begin = 0; begin < path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    begin = end + 1;
    if (part.empty() || part == ".") continue;
    if (part == "..") return fail(EINVAL, path + ": '..' is not allowed in a mount target");
    const bool last = path.find_first_not_of('/', end) == std::string::npos;
    done += "/" + part;
    const bool file = last && kind == TargetKind::kFile;
    const int flags = O_PATH | (file ? 0 : O_DIRECTORY);
    auto next = open_in_root(root, done, flags);
    if (!next && next.error().code == ENOENT) {
      // EEXIST: a symlink to nowhere.
      const int rc = file ? ::mknodat(directory.get(), part.c_str(), S_IFREG | 0644, 0)
                          : ::mkdirat(directory.get(), part.c_str(), 0755);
      if (rc != 0 && errno != EEXIST)
        return fail_errno("make the mount point " + done + " in the root filesystem");
      next = open_in_root(root, done, flags);
    }
    if (!next && next.error().code == ENOENT)
      return fail(0, "root filesystem: " + done + " is a symbolic link to nowhere");
    if (!next) return fail(next.error());
    directory = *std::move(next);
  }
  return directory;
}

Result<UniqueFd> open_plain(int root, const std::string& path, int flags) {
  open_how how{};
  how.flags = static_cast<unsigned>(flags) | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS;
  const long fd = ::syscall(SYS_openat2, root, path.c_str(), &how, sizeof(how));
  if (fd < 0) return fail_errno(path);
  return UniqueFd(static_cast<int>(fd));
}

bool is_mount_point(const std::string& path) {
  struct statx status {};
  return ::statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC, STATX_TYPE, &status) == 0 &&
         (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

}  // namespace umwelt::launch
