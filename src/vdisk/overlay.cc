// SPDX-License-Identifier: Apache-2.0
#include "vdisk/overlay.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>

#include <atomic>

#include "base/file.h"
#include "vdisk/mount_api.h"

namespace umwelt::vdisk {
namespace {

struct Layers {
  UniqueFd upper, work;
};

Result<Layers> open_layers(int disk) {
  Layers layers;
  layers.upper = UMWELT_TRY(open_at(disk, "upper", O_PATH | O_DIRECTORY | O_NOFOLLOW));
  layers.work = UMWELT_TRY(open_at(disk, "work", O_PATH | O_DIRECTORY | O_NOFOLLOW));
  return layers;
}

// A change of mode or owner then copies no data up. Only root below the host writes the upper's
// trusted attributes, so a forged redirect is not to be feared.
Result<UniqueFd> finish(FsContext& overlay, const OverlayRequest& request) {
  UMWELT_CHECK(overlay.set_string("source", request.name));
  UMWELT_CHECK(overlay.set_string("metacopy", "on"));
  if (request.is_volatile) UMWELT_CHECK(overlay.set_flag("volatile"));
  return overlay.mount(MOUNT_ATTR_NODEV);
}

Result<UniqueFd> by_descriptors(const OverlayRequest& request) {
  FsContext overlay = UMWELT_TRY(FsContext::open("overlay"));
  const Layers layers = UMWELT_TRY(open_layers(request.disk));
  for (const int lower : request.lowers) UMWELT_CHECK(overlay.set_fd("lowerdir+", lower));
  UMWELT_CHECK(overlay.set_fd("upperdir", layers.upper.get()));
  UMWELT_CHECK(overlay.set_fd("workdir", layers.work.get()));
  return finish(overlay, request);
}

std::string magic_link(int fd) { return fmt::format("/proc/self/fd/{}", fd); }

// In a mount namespace of its own. Attached over "/" the mounts are in that namespace, which is
// all that overlayfs asks for, and need no directory; the root of this process stays below them.
Result<UniqueFd> by_strings(const OverlayRequest& request) {
  std::string lowers;
  for (const int lower : request.lowers) {
    UMWELT_CHECK(attach_mount(lower, AT_FDCWD, "/"));
    lowers += (lowers.empty() ? "" : ":") + magic_link(lower);
  }
  UMWELT_CHECK(attach_mount(request.disk, AT_FDCWD, "/"));
  FsContext overlay = UMWELT_TRY(FsContext::open("overlay"));
  const Layers layers = UMWELT_TRY(open_layers(request.disk));
  UMWELT_CHECK(overlay.set_string("lowerdir", lowers));
  UMWELT_CHECK(overlay.set_string("upperdir", magic_link(layers.upper.get())));
  UMWELT_CHECK(overlay.set_string("workdir", magic_link(layers.work.get())));
  return finish(overlay, request);
}

}  // namespace

Result<UniqueFd> mount_overlay(const OverlayRequest& request, OverlayWay way) {
  static std::atomic<bool> descriptors_work{true};
  if (way == OverlayWay::kDescriptors) return by_descriptors(request);
  if (way == OverlayWay::kAuto && descriptors_work) {
    auto mount = by_descriptors(request);
    // EBADF, EINVAL: an older kernel knows no such parameter or refuses detached layers.
    if (mount || (mount.error().code != EINVAL && mount.error().code != EBADF)) return mount;
  }
  UniqueFd mount;
  const Result<void> done = in_private_mounts([&]() -> Result<void> {
    mount = UMWELT_TRY(by_strings(request));
    return {};
  });
  UMWELT_CHECK(done);
  descriptors_work = way != OverlayWay::kAuto && descriptors_work;
  return mount;
}

}  // namespace umwelt::vdisk
