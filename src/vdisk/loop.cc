// SPDX-License-Identifier: Apache-2.0
#include "vdisk/loop.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/loop.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <ctime>

#include "base/file.h"
#include "base/parse.h"

namespace umwelt::vdisk {
namespace {

constexpr unsigned kAttempts = 200;

std::string device_path(unsigned number) { return fmt::format("/dev/loop{}", number); }

// Opens /dev/loopN, making the node where no devtmpfs does it. ENXIO: the device went away.
Result<UniqueFd> open_device(unsigned number, int flags) {
  const std::string path = device_path(number);
  auto fd = open_at(AT_FDCWD, path, flags);
  if (fd || fd.error().code != ENOENT) return fd;
  const std::string text = UMWELT_TRY(read_file(fmt::format("/sys/block/loop{}/dev", number)));
  std::string_view minor_text = trim(text);
  minor_text.remove_prefix(std::min(minor_text.size(), minor_text.find(':') + 1));
  const auto minor_number = parse_u64(minor_text);
  if (!minor_number) return fail(ENXIO, "read the number of " + path);
  const dev_t device = makedev(7, static_cast<unsigned>(*minor_number));
  if (::mknod(path.c_str(), S_IFBLK | 0660, device) != 0 && errno != EEXIST)
    return fail_errno("mknod " + path);
  return open_at(AT_FDCWD, path, flags);
}

bool lost_race(int code) {
  return code == EBUSY || code == ENXIO || code == ENODEV || code == ENOENT || code == EAGAIN;
}

void pause_briefly(unsigned attempt) {
  if (attempt < 10) return;
  const timespec pause{0, 1000000};
  ::nanosleep(&pause, nullptr);
}

loop_config configuration(int file, const Loop::Options& options) {
  loop_config config{};
  config.fd = static_cast<std::uint32_t>(file);
  config.block_size = kBlockBytes;
  config.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
  if (options.read_only) config.info.lo_flags |= LO_FLAGS_READ_ONLY;
  options.name.copy(reinterpret_cast<char*>(config.info.lo_file_name), LO_NAME_SIZE - 1);
  return config;
}

std::optional<loop_info64> read_info(int device) {
  loop_info64 info{};
  if (::ioctl(device, LOOP_GET_STATUS64, &info) != 0) return std::nullopt;
  return info;
}

// The kernel's new_encode_dev() is also what stat(2) hands to us on 64 bits.
LoopFile file_of(const loop_info64& info) { return {info.lo_device, info.lo_inode}; }

}  // namespace

std::optional<LoopFile> read_loop_file(unsigned number) {
  const auto device = open_at(AT_FDCWD, device_path(number), O_RDONLY);
  const auto info = device ? read_info(device->get()) : std::nullopt;
  return info ? std::optional(file_of(*info)) : std::nullopt;
}

Result<Loop> Loop::attach(int file, const Options& options) {
  auto control = open_at(AT_FDCWD, kLoopControl, O_RDWR);
  if (!control)
    return fail(control.error().code == ENOENT ? ENODEV : control.error().code, kLoopControl);
  const loop_config config = configuration(file, options);
  const int access = options.read_only ? O_RDONLY : O_RDWR;
  // Every process of ours takes its number under this lock; with it 8 of them lose about no race
  // for a number, without it 3 an attach. Other programs may still win one, so we try again.
  if (::flock(control->get(), LOCK_EX) != 0) return fail_errno("lock /dev/loop-control");
  int code = EBUSY;
  for (unsigned attempt = 0; attempt < kAttempts; ++attempt) {
    const int number = ::ioctl(control->get(), LOOP_CTL_GET_FREE);
    if (number < 0) return fail_errno("get a free loop device");
    auto device = open_device(static_cast<unsigned>(number), access);
    if (device) {
      if (::ioctl(device->get(), LOOP_CONFIGURE, &config) == 0) {
        struct stat status {};
        if (::fstat(device->get(), &status) != 0) return fail_errno("fstat the loop device");
        return Loop(std::move(*device), static_cast<unsigned>(number), status.st_rdev);
      }
      code = errno;
    } else {
      code = device.error().code;
    }
    if (!lost_race(code)) break;
    pause_briefly(attempt);
  }
  return fail(code, "attach a loop device");
}

std::optional<Loop> Loop::find(unsigned number, int file) {
  auto device = open_at(AT_FDCWD, device_path(number), O_RDONLY);
  return device ? adopt(std::move(*device), file) : std::nullopt;
}

std::optional<Loop> Loop::adopt(UniqueFd device, int file) {
  struct stat of_file {
  }, of_device{};
  if (!device || ::fstat(file, &of_file) != 0 || ::fstat(device.get(), &of_device) != 0 ||
      !S_ISBLK(of_device.st_mode))
    return std::nullopt;
  const auto info = read_info(device.get());
  if (!info || file_of(*info) != LoopFile{of_file.st_dev, of_file.st_ino}) return std::nullopt;
  return Loop(std::move(device), info->lo_number, of_device.st_rdev);
}

std::string Loop::path() const { return device_path(number_); }

std::string Loop::sysfs() const { return fmt::format("/sys/block/loop{}", number_); }

Result<void> Loop::update_capacity() {
  if (::ioctl(fd_.get(), LOOP_SET_CAPACITY, 0) != 0) return fail_errno("LOOP_SET_CAPACITY");
  return {};
}

}  // namespace umwelt::vdisk
