// SPDX-License-Identifier: Apache-2.0
#include "vdisk/vdisk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "base/file.h"
#include "vdisk/image_file.h"
#include "vdisk/io_limits.h"
#include "vdisk/mount_api.h"
#include "vdisk/tool.h"

namespace umwelt::vdisk {
namespace {

// EXT4_IOC_SHUTDOWN (fs/ext4/ext4.h), the same for XFS and btrfs.
constexpr unsigned long kIocShutdown = _IOR('X', 125, std::uint32_t);
constexpr std::uint32_t kShutdownNoLogFlush = 2;

std::string loop_name(const Record& record, const std::string& owner) {
  return fmt::format("umwelt/{}/{}", owner, record.id);
}

std::optional<Loop> find_loop(int file) {
  const auto number = read_loop_hint(file);
  return number ? Loop::find(*number, file) : std::nullopt;
}

}  // namespace

Result<Disk> Disk::mount_on(UniqueFd file, const Record& record, Loop loop) {
  FsContext ext4 = UMWELT_TRY(FsContext::open("ext4"));
  UMWELT_CHECK(ext4.set_string("source", loop.path()));
  if (record.cls != Class::kGuaranteed) UMWELT_CHECK(ext4.set_flag("discard"));
  if (record.cls == Class::kScratch) UMWELT_CHECK(ext4.set_flag("nobarrier"));
  UniqueFd mount = UMWELT_TRY(ext4.mount(MOUNT_ATTR_NODEV));
  return Disk(record, std::move(file), std::move(loop), std::move(mount));
}

Result<Disk> Disk::make(int directory, const Template& t, const Record& record,
                        const std::string& owner) {
  UniqueFd file = UMWELT_TRY(create_unnamed(directory, t.capacity_bytes));
  UMWELT_CHECK(write_template(file.get(), t, record.cls));
  return attach(std::move(file), record, owner);
}

Result<Disk> Disk::attach(UniqueFd file, const Record& record, const std::string& owner) {
  Loop loop = UMWELT_TRY(Loop::attach(file.get(), {.name = loop_name(record, owner)}));
  // Those of the file that the device had before; some file's user may have been killed.
  UMWELT_CHECK(apply_device_limits(loop.device(), {}));
  UMWELT_CHECK(write_loop_hint(file.get(), loop.number()));
  return mount_on(std::move(file), record, std::move(loop));
}

Result<Disk> Disk::join(UniqueFd file, const Record& record) {
  auto loop = find_loop(file.get());
  if (!loop) return fail(ENOTCONN, "find the vdisk's loop device");
  return mount_on(std::move(file), record, std::move(*loop));
}

std::optional<Disk> Disk::take_over(UniqueFd file, const Record& record, UniqueFd loop,
                                    UniqueFd mount) {
  auto device = Loop::adopt(std::move(loop), file.get());
  struct stat status {};
  if (!device || !mount || ::fstat(mount.get(), &status) != 0 || status.st_dev != device->device())
    return std::nullopt;
  return Disk(record, std::move(file), std::move(*device), std::move(mount));
}

Result<void> Disk::apply_limits() {
  // Opened again: the loop device has the other description, and would keep its lock.
  limited_ = UMWELT_TRY(open_at(AT_FDCWD, path_of(file_.get()), O_RDONLY));
  if (::flock(limited_.get(), LOCK_SH) != 0) return fail_errno("note a user of a vdisk's limits");
  return apply_device_limits(loop_.device(), record_.limits);
}

void Disk::lift_limits() {
  if (!limited_) return;
  // The last one has it alone; who comes meanwhile waits, and applies them again.
  if (::flock(limited_.get(), LOCK_EX | LOCK_NB) == 0)
    (void)apply_device_limits(loop_.device(), {});
  ::flock(limited_.get(), LOCK_UN);  // a child may have the descriptor still
  limited_.reset();
}

void Disk::shut_down() {
  const UniqueFd root(::openat(mount_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ::ioctl(root.get(), kIocShutdown, &kShutdownNoLogFlush);
}

bool is_attached(int file) { return find_loop(file).has_value(); }

Result<UniqueFd> volume_root(const Disk& disk, bool read_only) {
  // Linux before 6.15 clones only mounts that are in the caller's namespace.
  auto root = clone_mount(disk.mount(), "upper");
  if (!root && root.error().code == EINVAL) {
    const auto cloned = in_private_mounts([&]() -> Result<void> {
      UMWELT_CHECK(attach_mount(disk.mount(), AT_FDCWD, "/"));
      root = clone_mount(disk.mount(), "upper");
      return {};
    });
    UMWELT_CHECK(cloned);
  }
  if (!root) return root;
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_NODEV | (read_only ? MOUNT_ATTR_RDONLY : 0U);
  if (::mount_setattr(root->get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0)
    return fail_errno("mount_setattr");
  return root;
}

}  // namespace umwelt::vdisk
