// SPDX-License-Identifier: Apache-2.0
#include "vdisk/mount_api.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>

#include <thread>

#include "base/parse.h"

namespace umwelt::vdisk {

Result<FsContext> FsContext::open(const std::string& type) {
  UniqueFd fd(::fsopen(type.c_str(), FSOPEN_CLOEXEC));
  if (!fd) return fail_errno("fsopen " + type);
  return FsContext(std::move(fd), type);
}

tl::unexpected<Error> FsContext::failure(const std::string& what) const {
  const int code = errno;
  std::string text = what + " " + type_;
  char message[512];
  for (;;) {
    const ssize_t n = ::read(fd_.get(), message, sizeof message);
    if (n <= 2) break;
    // "e overlay: ..." (error), "w ..." (warning), "i ..." (information); one a read.
    text += " (" + std::string(trim({message + 2, static_cast<std::size_t>(n) - 2})) + ")";
  }
  return fail(code, text);
}

Result<void> FsContext::set_flag(const std::string& key) {
  if (::fsconfig(fd_.get(), FSCONFIG_SET_FLAG, key.c_str(), nullptr, 0) != 0)
    return failure("set " + key + " of");
  return {};
}

Result<void> FsContext::set_string(const std::string& key, const std::string& value) {
  if (::fsconfig(fd_.get(), FSCONFIG_SET_STRING, key.c_str(), value.c_str(), 0) != 0)
    return failure("set " + key + "=" + value + " of");
  return {};
}

Result<void> FsContext::set_fd(const std::string& key, int fd) {
  if (::fsconfig(fd_.get(), FSCONFIG_SET_FD, key.c_str(), nullptr, fd) != 0)
    return failure("set " + key + " of");
  return {};
}

Result<UniqueFd> FsContext::mount(unsigned attributes) {
  if (::fsconfig(fd_.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return failure("mount");
  UniqueFd fd(::fsmount(fd_.get(), FSMOUNT_CLOEXEC, attributes));
  if (!fd) return failure("fsmount");
  return fd;
}

Result<UniqueFd> clone_mount(int dir, const std::string& path) {
  UniqueFd fd(::open_tree(dir, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH));
  if (!fd) return fail_errno("open_tree " + path);
  return fd;
}

Result<void> attach_mount(int mount, int dir, const std::string& path) {
  if (::move_mount(mount, "", dir, path.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0)
    return fail_errno("move_mount " + path);
  return {};
}

Result<void> in_private_mounts(const std::function<Result<void>()>& work) {
  Result<void> result;
  std::thread([&] {
    if (::unshare(CLONE_NEWNS) != 0) {
      result = fail_errno("unshare the mount namespace");
    } else if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      result = fail_errno("make the mounts private");
    } else {
      result = work();
    }
  }).join();
  return result;
}

}  // namespace umwelt::vdisk
