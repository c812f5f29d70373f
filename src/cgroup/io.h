// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cgroup/directory.h"
#include "cgroup/state.h"

namespace umwelt::cgroup {

// The block I/O of a cgroup with its descendants: v1 blkio.throttle.io_*_recursive, v2 io.stat. At
// most 2 syscalls a read. Not thread-safe.
//
// v1 has no writes that the kernel does later for a task: those are the root's. And since Linux
// 6.10 it counts a disk only from the moment on when some cgroup was given a limit on it, even if
// only for a moment (blk_throtl_init() in block/blk-throttle.c): "254:0 9223372036854775807", then
// "254:0 0", to blkio.throttle.read_bps_device.
class IoReader {
 public:
  // `directory` outlives the reader.
  explicit IoReader(const Directory* directory);

  // Takes the files that are there by now (HeldFile::refresh()).
  void refresh();

  // Ascending by device; only devices that were used.
  Result<std::vector<DeviceIo>> read(std::string& buffer);

 private:
  bool v2_;
  HeldFile stat_;              // v2
  HeldFile bytes_, serviced_;  // v1
};

}  // namespace umwelt::cgroup
