// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <limits>

#include "base/file.h"
#include "base/parse.h"
#include "vdisk/image_file.h"
#include "vdisk/tool.h"
#include "vdisk/vdisk.h"

namespace umwelt::vdisk {
namespace {

constexpr unsigned long kExt4Resize = _IOW('f', 16, std::uint64_t);  // EXT4_IOC_RESIZE_FS
// Exit codes of e2fsck(8), a sum of bits.
constexpr int kFsckCorrected = 1, kFsckReboot = 2, kFsckUncorrected = 4;

Result<UniqueFd> open_mount_root(const Disk& disk) {
  return open_at(disk.mount(), ".", O_RDONLY | O_DIRECTORY);
}

Result<struct stat> stat_file(int file) {
  struct stat status {};
  if (::fstat(file, &status) != 0) return fail_errno("fstat a vdisk's file");
  return status;
}

Result<Usage> file_usage(int file) {
  const struct stat status = UMWELT_TRY(stat_file(file));
  Usage usage;
  usage.capacity_bytes = static_cast<std::uint64_t>(status.st_size);
  usage.allocated_bytes = static_cast<std::uint64_t>(status.st_blocks) * 512;
  return usage;
}

Result<void> apply_size(int file, std::uint64_t bytes) {
  if (::ftruncate(file, static_cast<off_t>(bytes)) != 0)
    return fail_errno(fmt::format("make a vdisk's file {} bytes long", bytes));
  return {};
}

}  // namespace

std::uint64_t Usage::reclaimable_bytes() const {
  const std::uint64_t metadata = saturating_sub(capacity_bytes, usable_bytes);
  return saturating_sub(saturating_sub(allocated_bytes, metadata), live_bytes);
}

Result<Usage> usage(const Disk& disk) {
  Usage usage = UMWELT_TRY(file_usage(disk.file()));
  struct statfs status {};
  if (::fstatfs(disk.mount(), &status) != 0) return fail_errno("statfs a vdisk");
  const auto block = static_cast<std::uint64_t>(status.f_bsize);
  usage.usable_bytes = status.f_blocks * block;
  usage.live_bytes = saturating_sub(status.f_blocks, status.f_bfree) * block;
  usage.inodes = status.f_files;
  usage.used_inodes = saturating_sub(status.f_files, status.f_ffree);
  usage.attached = true;
  return usage;
}

Result<Usage> read_usage(int file) {
  Usage usage = UMWELT_TRY(file_usage(file));
  const Superblock s = UMWELT_TRY(read_superblock(file));
  usage.usable_bytes = saturating_sub(s.blocks, s.overhead_blocks()) * s.block_bytes;
  usage.live_bytes = saturating_sub(usage.usable_bytes, s.free_blocks * s.block_bytes);
  usage.inodes = s.inodes;
  usage.used_inodes = s.inodes - s.free_inodes;
  return usage;
}

Result<std::uint64_t> trim(const Disk& disk) {
  if (disk.record().cls == Class::kGuaranteed)
    return fail(ENOTSUP, "trim a guaranteed vdisk, which keeps its space");
  const UniqueFd root = UMWELT_TRY(open_mount_root(disk));
  fstrim_range range{0, std::numeric_limits<std::uint64_t>::max(), 0};
  if (::ioctl(root.get(), FITRIM, &range) != 0) return fail_errno("trim a vdisk");
  return static_cast<std::uint64_t>(range.len);
}

Result<Frozen> Frozen::freeze(const Disk& disk) {
  UniqueFd root = UMWELT_TRY(open_mount_root(disk));
  if (::ioctl(root.get(), FIFREEZE, 0) != 0) return fail_errno("freeze a vdisk");
  return Frozen(std::move(root));
}

Frozen::~Frozen() {
  if (fd_) ::ioctl(fd_.get(), FITHAW, 0);
}

Result<void> grow_attached(Disk& disk, std::uint64_t capacity_bytes) {
  const std::uint64_t before = disk.record().capacity_bytes;
  if (capacity_bytes <= before)
    return fail(EINVAL, fmt::format("a vdisk in use only grows; it has {} bytes", before));
  UMWELT_CHECK(apply_size(disk.file(), capacity_bytes));
  const auto undo = [&](const Error& error) {
    if (apply_size(disk.file(), before)) (void)disk.loop().update_capacity();
    return fail(error);
  };
  if (auto larger = disk.loop().update_capacity(); !larger) return undo(larger.error());
  const UniqueFd root = UMWELT_TRY(open_mount_root(disk));
  const std::uint64_t blocks = capacity_bytes / kBlockBytes;
  if (::ioctl(root.get(), kExt4Resize, &blocks) != 0)
    return undo(Error{errno, "grow a vdisk in use"});
  disk.record().capacity_bytes = capacity_bytes;
  return write_record(disk.file(), disk.record());
}

Result<Report> check(int file, Effort effort) {
  const char* option = effort == Effort::kLook ? "-n" : effort == Effort::kSafe ? "-p" : "-y";
  // Looking at a filesystem whose journal is full shows errors that it doesn't have.
  if (effort == Effort::kLook)
    UMWELT_TRY(run_tool({"e2fsck", "-p", "-E", "journal_only", path_of(file)}));
  ToolResult result = UMWELT_TRY(run_tool({"e2fsck", "-f", option, path_of(file)}));
  Report report;
  report.text = std::move(result.output);
  if (result.exit_code == 0) return report;
  if (result.exit_code > (kFsckCorrected | kFsckReboot | kFsckUncorrected))
    return fail(EIO, fmt::format("e2fsck (exit code {})", result.exit_code));
  report.health = result.exit_code & kFsckUncorrected ? Health::kDamaged : Health::kRepaired;
  return report;
}

Result<void> make_mountable(int file) {
  const auto superblock = read_superblock(file);
  if (superblock && !(superblock->state & Superblock::kStateErrors)) return {};
  const auto report = check(file, Effort::kSafe);
  if (report && report->health != Health::kDamaged) return {};
  return fail(EUCLEAN, "mount a vdisk");
}

Result<void> allocate_for(int file, Class c, std::uint64_t capacity_bytes) {
  std::vector<Extent> wanted = {{0, capacity_bytes}};
  if (c != Class::kGuaranteed) {
    const Superblock superblock = UMWELT_TRY(read_superblock(file));
    wanted = join(UMWELT_TRY(read_metadata_blocks(file, superblock)), kReserveGap);
  }
  for (const Extent& e : wanted)
    if (::fallocate(file, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(e.offset),
                    static_cast<off_t>(e.size)) != 0)
      return fail_errno("allocate a vdisk's blocks");
  return {};
}

Result<void> copy_attached(const Disk& disk, int to, const CopyProgress& progress) {
  const UniqueFd root = UMWELT_TRY(open_mount_root(disk));
  if (::syncfs(root.get()) != 0) return fail_errno("sync a vdisk");
  const bool may_share = disk.record().cls != Class::kGuaranteed;
  if (may_share && ::ioctl(to, FICLONE, disk.file()) == 0) return {};
  const Frozen frozen = UMWELT_TRY(Frozen::freeze(disk));
  UMWELT_TRY(copy_file(disk.file(), to, false, progress));
  return {};
}

Result<void> resize(int file, Record& record, std::uint64_t capacity_bytes) {
  const Report report = UMWELT_TRY(check(file, Effort::kSafe));
  if (report.health == Health::kDamaged) return fail(EUCLEAN, "resize a damaged vdisk");
  const bool grows = capacity_bytes > record.capacity_bytes;
  if (grows) UMWELT_CHECK(apply_size(file, capacity_bytes));
  const auto resized =
      check_tool({"resize2fs", path_of(file), fmt::format("{}K", capacity_bytes / 1024)});
  if (!resized) return fail(resized.error());
  if (!grows) UMWELT_CHECK(apply_size(file, capacity_bytes));
  record.capacity_bytes = capacity_bytes;
  UMWELT_CHECK(write_record(file, record));
  return grows ? allocate_for(file, record.cls, capacity_bytes) : Result<void>();
}

}  // namespace umwelt::vdisk
