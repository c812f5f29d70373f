// SPDX-License-Identifier: Apache-2.0
// What a daemon may offer: every served file of proc/, run/ and sys/fs/cgroup, and the directories
// of sys/devices/system as a whole. Known here, so that a container's start waits for no listing.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "view/files.h"

namespace umwelt::launch {

struct KnownView {
  std::string_view group;  // as an annotation names it
  std::string_view path;   // relative to a container's tree
  view::Connection connection;
  bool directory;
};
std::span<const KnownView> known_views();
// cpu, memory, load, uptime, io, info
std::vector<std::string> view_groups();

}  // namespace umwelt::launch
