// SPDX-License-Identifier: Apache-2.0
// The daemon's files over the real ones.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "container/record.h"

namespace umwelt::launch {

// What is mounted as one: a file below proc/ or run/, or a directory of sys/devices/system/ or
// sys/kernel/mm/hugepages as a whole. Paths are relative to a container's tree
// ("proc/pressure/cpu").
struct View {
  std::string path;
  bool directory = false;
  friend bool operator==(const View&, const View&) = default;
};

// A mount of one of them, in `tree` (<runtime>/{config,live,pressure}/ID), that is attached nowhere
// yet. ENOENT: the daemon does not offer it.
Result<UniqueFd> clone_view(const std::string& tree, const View& view);

// All that the trees of container `id` may offer.
struct OfferedView {
  std::string tree;
  View view;
};
std::vector<OfferedView> views_of(const std::string& id, const container::Directories& directories);

// Mounts those that the daemon offers and this kernel has a file for; a file of run/ is made first.
// `proc` is the directory below the container's /proc, which must not have a symlink in the place
// of a view: such a root filesystem is refused. Runs in the container's mount namespace before
// pivot_root(2), when its cgroup hierarchies are mounted.
Result<void> mount_views(int root, int proc, const std::vector<OfferedView>& views);

}  // namespace umwelt::launch
