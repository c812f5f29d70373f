// SPDX-License-Identifier: Apache-2.0
// An overlay of shared read-only lowers and the upper/ and work/ of a vdisk, mounted without a path
// of the host. Source: Documentation/filesystems/overlayfs.rst (linux).
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::vdisk {

struct OverlayRequest {
  std::vector<int> lowers;   // detached mounts, the uppermost first
  int disk = -1;             // a detached mount with upper/ and work/
  bool is_volatile = false;  // no sync, and no second mount after a crash
  std::string name;          // the source that mountinfo shows
};

// Which way the layers are named. kDescriptors needs Linux 6.15 (descriptors as layers 6.13, layers
// in no namespace 6.15); kStrings has them in a mount namespace of its own for a moment and works
// wherever overlayfs does; after it the layers' mounts can't be attached any more.
enum class OverlayWay { kAuto, kDescriptors, kStrings };

// A detached mount; it keeps the layers' superblocks.
Result<UniqueFd> mount_overlay(const OverlayRequest& request, OverlayWay way = OverlayWay::kAuto);

}  // namespace umwelt::vdisk
