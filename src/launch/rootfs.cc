// SPDX-License-Identifier: Apache-2.0
#include "launch/rootfs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/file.h"
#include "launch/filesystems.h"
#include "launch/mounts.h"

namespace umwelt::launch {
namespace {

// An overlay's layers must not lie within each other, so the upper one can't be a directory of the
// root that is the lower one: it is a tmpfs.
Result<UniqueFd> mount_overlay(const Spec& spec, const std::string& staging) {
  const UniqueFd memory = UMWELT_TRY(make_filesystem(
      "tmpfs", {{"mode", "0700"}, {"size", tmpfs_size(spec.limits.memory_bytes)}}, 0));
  for (const char* directory : {"upper", "work"})
    if (::mkdirat(memory.get(), directory, 0755) != 0) return fail_errno("make an overlay");
  const UniqueFd target = UMWELT_TRY(open_at(AT_FDCWD, staging, O_PATH | O_DIRECTORY));
  UMWELT_CHECK(attach_mount(memory.get(), target.get()));
  // Relative, since fsconfig(2) takes no more than 255 bytes.
  if (::fchdir(memory.get()) != 0) return fail_errno("enter " + staging);
  return make_filesystem("overlay", {{"lowerdir", "/"}, {"upperdir", "upper"}, {"workdir", "work"}},
                         MOUNT_ATTR_NODEV);
}

Result<UniqueFd> clone_directory(const std::string& path) {
  UniqueFd mount = UMWELT_TRY(clone_mount(AT_FDCWD, path, true));
  UMWELT_CHECK(restrict_mount(mount.get(), MOUNT_ATTR_NODEV, true));
  return mount;
}

Result<UniqueFd> take_mount(int mount) {
  UniqueFd copy(::fcntl(mount, F_DUPFD_CLOEXEC, 0));
  if (!copy) return fail_errno("duplicate a descriptor");
  UMWELT_CHECK(restrict_mount(copy.get(), MOUNT_ATTR_NODEV, false));
  return copy;
}

// `own`: the root is the container's, which may be given what its image lacks.
Result<UniqueFd> open_proc(int root, const std::string& rootfs, bool own) {
  auto proc = open_plain(root, "proc", O_PATH | O_DIRECTORY);
  if (!proc && proc.error().code == ENOENT && own)
    return open_target(root, "proc", TargetKind::kDirectory);
  if (proc) return proc;
  const char* fault = proc.error().code == ELOOP     ? "is a symbolic link"
                      : proc.error().code == ENOTDIR ? "is not a directory"
                      : proc.error().code == ENOENT  ? "is missing"
                                                     : std::strerror(proc.error().code);
  return fail(
      0, fmt::format("root filesystem {}: its /proc {}; it must be a directory", rootfs, fault));
}

Result<UniqueFd> make_volume(const Mount& mount, const Spec& spec) {
  if (mount.type == MountType::kTmpfs) {
    const std::string mode = fmt::format("{:o}", mount.mode.value_or(01777));
    const std::string size =
        mount.size_bytes ? std::to_string(*mount.size_bytes) : tmpfs_size(spec.limits.memory_bytes);
    return make_filesystem("tmpfs", {{"mode", mode}, {"size", size}},
                           MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
  }
  return clone_mount(AT_FDCWD, mount.source, true);
}

}  // namespace

Result<Rootfs> open_rootfs(const Spec& spec, const std::string& staging, int given) {
  const UniqueFd mount = UMWELT_TRY(given >= 0            ? take_mount(given)
                                    : spec.rootfs.empty() ? mount_overlay(spec, staging)
                                                          : clone_directory(spec.rootfs));
  const UniqueFd target = UMWELT_TRY(open_at(AT_FDCWD, staging, O_PATH | O_DIRECTORY));
  UMWELT_CHECK(attach_mount(mount.get(), target.get()));
  Rootfs rootfs;
  rootfs.root = UMWELT_TRY(open_at(mount.get(), ".", O_PATH | O_DIRECTORY));
  const std::string& name = spec.image.empty() ? spec.rootfs : spec.image;
  rootfs.proc = UMWELT_TRY(
      open_proc(rootfs.root.get(), name.empty() ? "/" : name, given >= 0 || spec.rootfs.empty()));
  return rootfs;
}

Result<void> mount_volumes(int root, const Spec& spec, const Storage& storage) {
  for (std::size_t i = 0; i < spec.mounts.size(); ++i) {
    const Mount& mount = spec.mounts[i];
    const UniqueFd volume =
        UMWELT_TRY(mount.type == MountType::kVolume ? take_mount(storage.volume(i))
                                                    : make_volume(mount, spec));
    std::uint64_t attributes = MOUNT_ATTR_NODEV;
    if (mount.read_only) attributes |= MOUNT_ATTR_RDONLY;
    UMWELT_CHECK(restrict_mount(volume.get(), attributes, true));
    struct stat st {};
    if (::fstat(volume.get(), &st) != 0) return fail_errno("stat " + mount.source);
    const UniqueFd target = UMWELT_TRY(open_target(
        root, mount.target, S_ISDIR(st.st_mode) ? TargetKind::kDirectory : TargetKind::kFile));
    if (auto attached = attach_mount(volume.get(), target.get()); !attached)
      return fail(attached.error().code, "mount " + mount.source + " on " + mount.target);
  }
  return {};
}

Result<void> pivot_into(int root) {
  if (::fchdir(root) != 0) return fail_errno("enter the root filesystem");
  // With the same directory twice the old root lies on top of the new one (pivot_root(2)).
  if (::syscall(SYS_pivot_root, ".", ".") != 0) return fail_errno("pivot_root");
  if (::umount2(".", MNT_DETACH) != 0) return fail_errno("unmount the host's root");
  if (::chdir("/") != 0) return fail_errno("enter the root filesystem");
  return {};
}

}  // namespace umwelt::launch
