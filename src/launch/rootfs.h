// SPDX-License-Identifier: Apache-2.0
// The container's root filesystem. Everything here runs in the container's own mount namespace,
// before pivot_root(2).
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "launch/spec.h"
#include "launch/storage.h"

namespace umwelt::launch {

struct Rootfs {
  UniqueFd root;  // O_PATH, of the attached mount
  UniqueFd proc;  // O_PATH, the directory that /proc will be mounted on
};

// Mounts the root filesystem over `staging`, an existing directory: `spec.rootfs` itself, or an
// overlay of the host's root with a throw-away upper layer in memory. Device files in it do not
// work, whoever made them.
// Where `given` is not -1, it is the root: a detached mount of the container's own, in which what
// it lacks is made.
Result<Rootfs> open_rootfs(const Spec& spec, const std::string& staging, int given);

// `spec.mounts`, which the user asked for.
Result<void> mount_volumes(int root, const Spec& spec, const Storage& storage);

// Makes `root` the namespace's root and lets go of the old one.
Result<void> pivot_into(int root);

}  // namespace umwelt::launch
