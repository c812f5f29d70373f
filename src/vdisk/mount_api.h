// SPDX-License-Identifier: Apache-2.0
// Mounts as descriptors (fsopen(2), fsmount(2), open_tree(2), move_mount(2)). A mount that was
// never moved into a namespace goes away with its descriptor, however the process ends.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::vdisk {

// A filesystem that is being configured. Not thread-safe.
class FsContext {
 public:
  // ENODEV: this kernel has no filesystem `type`.
  static Result<FsContext> open(const std::string& type);

  Result<void> set_flag(const std::string& key);
  Result<void> set_string(const std::string& key, const std::string& value);
  Result<void> set_fd(const std::string& key, int fd);

  // Makes the superblock (or takes the one that the same block device has already) and a mount of
  // it that is in no namespace. `attributes`: MOUNT_ATTR_*. The error's text carries what the
  // kernel had to say.
  Result<UniqueFd> mount(unsigned attributes);

 private:
  explicit FsContext(UniqueFd fd, std::string type) : fd_(std::move(fd)), type_(std::move(type)) {}
  tl::unexpected<Error> failure(const std::string& what) const;

  UniqueFd fd_;
  std::string type_;
};

// A detached bind mount of `path` below `dir` alone, without the mounts below it.
Result<UniqueFd> clone_mount(int dir, const std::string& path);

// Attaches a detached mount.
Result<void> attach_mount(int mount, int dir, const std::string& path);

// Runs `work` in a thread with a mount namespace of its own, whose changes stay there and which
// ends with it. Descriptors are shared with the caller, the working directory is not.
Result<void> in_private_mounts(const std::function<Result<void>()>& work);

}  // namespace umwelt::vdisk
