// SPDX-License-Identifier: Apache-2.0
// Speed limits of a vdisk's loop device.
//
// cgroup v2: io.max of the container's cgroup, which also holds for what is written back for it.
// cgroup v1: blkio.throttle.* of the container's cgroup for what its processes write themselves, of
// the root one for what is written back, and a small dirty limit of the device itself, so that a
// buffered write runs at the limit too instead of filling memory (Linux 6.2; before it only fsync
// does).
#pragma once

#include <sys/types.h>

#include <string>

#include "base/result.h"
#include "cgroup/hierarchies.h"
#include "vdisk/record.h"

namespace umwelt::vdisk {

// `container` are the paths of its cgroup; nothing happens where that is gone or not there yet. A
// whole sentence (code 0) where no controller can.
Result<void> apply_io_limits(dev_t device, const IoLimits& limits, const cgroup::Paths& container);

// The part that does not belong to one container: the root cgroup's and the device's own. Linux
// keeps them with the device when a file is detached from it.
Result<void> apply_device_limits(dev_t device, const IoLimits& limits);

// Takes them away from all loop devices without a file: a user of that may have been killed, and
// the next one is somebody else's. Not where somebody attaches one in this moment.
Result<void> lift_forgotten_limits();

// Those in the v1 cgroup `directory`. Only what differs is written: most devices never had a limit,
// and a kernel without throttling has no files of them.
Result<void> apply_v1_limits(const std::string& directory, dev_t device, const IoLimits& limits);

// What is written, for the tests: v1 "7:3 10485760" (0 takes a limit away), v2 "7:3 wbps=max".
std::string render_v1_limit(dev_t device, std::optional<std::uint64_t> limit);
std::string render_v2_limits(dev_t device, const IoLimits& limits);

}  // namespace umwelt::vdisk
