// SPDX-License-Identifier: Apache-2.0
// Loop devices (loop(4)), without a tool and without a leak: each one detaches itself when its last
// user (descriptor or mount) is gone.
#pragma once

#include <sys/types.h>

#include <compare>
#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::vdisk {

inline constexpr std::uint32_t kBlockBytes = 4096;  // of every filesystem and loop device of ours

// Every process of ours that attaches has its flock(2).
inline constexpr char kLoopControl[] = "/dev/loop-control";

// The file that a loop device is attached to, as stat(2) has it. Also where
// /sys/block/loopN/loop/backing_file says "(deleted)": that is the name that the file had when it
// was attached, and one that was made without a name never gets another one there.
struct LoopFile {
  dev_t device = 0;
  ino_t inode = 0;
  friend auto operator<=>(const LoopFile&, const LoopFile&) = default;
};
// nullopt when device `number` is not attached, or may not be opened.
std::optional<LoopFile> read_loop_file(unsigned number);

// An attached loop device, held open. Not thread-safe.
class Loop {
 public:
  struct Options {
    std::string name;  // shows as lo_file_name; at most 63 bytes
    bool read_only = false;
  };
  // Attaches `file` with direct I/O (where its filesystem can do that) and blocks of kBlockBytes.
  // The device keeps the open file description, and with it its lock. Thread-safe,
  // and safe against other programs that attach at the same time. ENODEV: no loop driver; ENOSPC:
  // no free device.
  static Result<Loop> attach(int file, const Options& options);

  // Device `number` if the file open as `file` is what it is attached to.
  static std::optional<Loop> find(unsigned number, int file);

  // The device open as `device`, on the same condition.
  static std::optional<Loop> adopt(UniqueFd device, int file);

  int fd() const { return fd_.get(); }
  unsigned number() const { return number_; }
  dev_t device() const { return device_; }
  std::string path() const;   // "/dev/loop7"
  std::string sysfs() const;  // "/sys/block/loop7"

  // Makes the device as long as its file has become.
  Result<void> update_capacity();

 private:
  Loop(UniqueFd fd, unsigned number, dev_t device)
      : fd_(std::move(fd)), number_(number), device_(device) {}

  UniqueFd fd_;
  unsigned number_ = 0;
  dev_t device_ = 0;
};

}  // namespace umwelt::vdisk
