// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <csignal>
#include <limits>

#include "base/child_process.h"
#include "base/file.h"
#include "base/parse.h"
#include "vdisk/image_file.h"
#include "vdisk/tool.h"
#include "vdisk/tree_writer.h"
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

// For what is in it now; resize2fs says it in blocks, in the last word.
Result<std::uint64_t> least_capacity(int file) {
  const std::string said = UMWELT_TRY(check_tool({"resize2fs", "-P", path_of(file)}, {}, {}, file));
  const std::string_view line = umwelt::trim(said);
  const auto blocks = parse_u64(line.substr(line.rfind(' ') + 1));
  if (!blocks) return fail(EPROTO, "read what resize2fs says");
  return *blocks * UMWELT_TRY(read_superblock(file)).block_bytes;
}

}  // namespace

Result<void> lengthen(int file, Class c, std::uint64_t before, std::uint64_t bytes) {
  UMWELT_CHECK(apply_size(file, bytes));
  if (c != Class::kGuaranteed) return {};
  if (::fallocate(file, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(before),
                  static_cast<off_t>(bytes - before)) == 0)
    return {};
  const Error error{errno, "allocate what a guaranteed vdisk grows by"};
  UMWELT_CHECK(apply_size(file, before));
  return fail(error);
}

std::uint64_t Usage::reclaimable_bytes() const {
  if (guaranteed) return 0;
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

namespace {

constexpr int kKeeperTimedOut = 2;

// Until the other end is closed. False: nothing came for too long.
bool wait_for_end(int pipe) {
  pollfd ready{pipe, POLLIN, 0};
  const int patience_ms = static_cast<int>(std::chrono::milliseconds(kFreezePatience).count());
  for (;;) {
    const int n = ::poll(&ready, 1, patience_ms);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    char bytes[64];
    if (::read(pipe, bytes, sizeof bytes) <= 0) return true;
  }
}

// A filesystem that nobody thaws stops its writers for good, kill(2) or not: another process does
// it when this one, however it ends, has closed its end of `pipe`, or makes no progress.
[[noreturn]] void keep_frozen(int root, int pipe) {
  ::setsid();
  sigset_t all;
  sigfillset(&all);
  ::sigprocmask(SIG_BLOCK, &all, nullptr);
  int code = ::ioctl(root, FIFREEZE, 0) == 0 ? 0 : errno;
  bool in_time = true;
  if (::write(pipe, &code, sizeof code) == sizeof code && code == 0) in_time = wait_for_end(pipe);
  if (code == 0 && ::ioctl(root, FITHAW, 0) != 0) ::_exit(1);
  ::_exit(in_time ? 0 : kKeeperTimedOut);
}

}  // namespace

Result<Frozen> Frozen::freeze(const Disk& disk) {
  UniqueFd root = UMWELT_TRY(open_mount_root(disk));
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return fail_errno("socketpair");
  UniqueFd ours(ends[0]), theirs(ends[1]);
  auto keeper = UMWELT_TRY(clone_child(0));
  if (!keeper) {
    ours.reset();
    keep_frozen(root.get(), theirs.get());
  }
  theirs.reset();
  Frozen frozen(std::move(*keeper), std::move(ours), std::move(root));
  int code = EIO;
  if (::read(frozen.link_.get(), &code, sizeof code) != sizeof code) code = EIO;
  if (code == EBUSY)
    return fail(0, "the vdisk is frozen already: wait until the other copy of it is made");
  if (code != 0) return fail(code, "freeze a vdisk");
  return frozen;
}

Frozen::~Frozen() { (void)thaw(); }

void Frozen::note_progress() const {
  // Full: the keeper has enough to read. Closed: thaw() says why.
  (void)!::send(link_.get(), "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

Result<void> Frozen::thaw() {
  if (!link_) return {};
  link_.reset();
  const auto code = wait_exit_code(keeper_.pidfd.get());
  if (code && *code == kKeeperTimedOut)
    return fail(ETIMEDOUT, fmt::format("copy a vdisk in use: without progress for {} s it goes on",
                                       kFreezePatience.count()));
  // A keeper that was killed has left it to us.
  if ((code && *code == 0) || ::ioctl(root_.get(), FITHAW, 0) == 0) return {};
  return fail(EIO, "the vdisk was thawed by somebody else");
}

Result<void> thaw(const Disk& disk) {
  const UniqueFd root = UMWELT_TRY(open_mount_root(disk));
  if (::ioctl(root.get(), FITHAW, 0) != 0 && errno != EINVAL) return fail_errno("thaw a vdisk");
  return {};
}

Result<void> grow_attached(Disk& disk, std::uint64_t before, std::uint64_t capacity_bytes) {
  if (auto larger = disk.loop().update_capacity(); !larger) return larger;
  const UniqueFd root = UMWELT_TRY(open_mount_root(disk));
  const std::uint64_t blocks = capacity_bytes / kBlockBytes;
  if (::ioctl(root.get(), kExt4Resize, &blocks) != 0) {
    const Error error{errno, "grow a vdisk in use"};
    // Nothing was begun. After any other error a part of it may be done: the file stays long
    // enough.
    if (error.code == EPERM && apply_size(disk.file(), before)) (void)disk.loop().update_capacity();
    return fail(error);
  }
  disk.record().capacity_bytes = capacity_bytes;
  // Through the device, whose cache has what the journal has not put into its place yet.
  return allocate_for(disk.file(), disk.record().cls, capacity_bytes, disk.loop().fd());
}

Result<Report> check(int file, Effort effort) {
  const char* option = effort == Effort::kLook ? "-n" : effort == Effort::kSafe ? "-p" : "-y";
  // Looking at a filesystem whose journal is full shows errors that it doesn't have.
  if (effort == Effort::kLook)
    UMWELT_TRY(run_tool({"e2fsck", "-p", "-E", "journal_only", path_of(file)}, {}, {}, file));
  ToolResult result = UMWELT_TRY(run_tool({"e2fsck", "-f", option, path_of(file)}, {}, {}, file));
  Report report;
  report.text = std::move(result.output);
  if (result.exit_code == 0) return report;
  if (result.exit_code > (kFsckCorrected | kFsckReboot | kFsckUncorrected))
    return fail(EIO, fmt::format("e2fsck (exit code {})", result.exit_code));
  report.health = result.exit_code & kFsckUncorrected ? Health::kDamaged : Health::kRepaired;
  return report;
}

bool is_clean(int file) {
  const auto superblock = read_superblock(file);
  return superblock && (superblock->state & Superblock::kStateClean) &&
         !(superblock->state & Superblock::kStateErrors);
}

Result<void> make_mountable(int file) {
  if (is_clean(file)) return {};
  const auto superblock = read_superblock(file);
  const bool journal = !superblock || superblock->journal_bytes > 0;
  const auto report = check(file, journal ? Effort::kSafe : Effort::kEverything);
  if (report && report->health != Health::kDamaged) return {};
  return fail(EUCLEAN, "mount a vdisk");
}

Result<void> allocate_for(int file, Class c, std::uint64_t capacity_bytes, int filesystem) {
  std::vector<Extent> wanted = {{0, capacity_bytes}};
  if (c != Class::kGuaranteed) {
    const Superblock superblock = UMWELT_TRY(read_superblock(filesystem));
    wanted = join(UMWELT_TRY(read_metadata_blocks(filesystem, superblock)), kReserveGap);
  }
  for (const Extent& e : wanted)
    if (::fallocate(file, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(e.offset),
                    static_cast<off_t>(e.size)) != 0)
      return fail_errno("allocate a vdisk's blocks");
  return {};
}

Result<void> copy_attached(const Disk& disk, int to, const CopyProgress& progress,
                           const BeforeCopy& before) {
  const UniqueFd root = UMWELT_TRY(open_mount_root(disk));
  if (::syncfs(root.get()) != 0) return fail_errno("sync a vdisk");
  const bool may_share = disk.record().cls != Class::kGuaranteed;
  const bool journal = disk.record().cls != Class::kScratch;
  if (may_share && journal && ::ioctl(to, FICLONE, disk.file()) == 0) return {};
  if (before) UMWELT_CHECK(before());
  Frozen frozen = UMWELT_TRY(Frozen::freeze(disk));
  const auto copied = [&](std::uint64_t done, std::uint64_t total) {
    frozen.note_progress();
    if (progress) progress(done, total);
  };
  UMWELT_CHECK(copy_file(disk.file(), to, may_share, copied));
  UMWELT_CHECK(frozen.thaw());
  if (journal) return {};
  // All is written, but it is not marked as unmounted, and files that were only open are left.
  const Report report = UMWELT_TRY(check(to, Effort::kEverything));
  if (report.health == Health::kDamaged) return fail(EUCLEAN, "copy a vdisk");
  return {};
}

Result<void> resize(int file, Class c, std::uint64_t capacity_bytes) {
  const Report report = UMWELT_TRY(check(file, Effort::kSafe));
  if (report.health == Health::kDamaged) return fail(EUCLEAN, "resize a damaged vdisk");
  const auto resized = check_tool(
      {"resize2fs", path_of(file), fmt::format("{}K", capacity_bytes / 1024)}, {}, {}, file);
  if (!resized) {
    if (const auto least = least_capacity(file); least && *least > capacity_bytes)
      return fail(0, fmt::format("the vdisk can't be smaller than {}m, for what is in it",
                                 (*least + (1 << 20) - 1) >> 20));
    return fail(resized.error());
  }
  UMWELT_CHECK(apply_size(file, capacity_bytes));
  return allocate_for(file, c, capacity_bytes, file);
}

}  // namespace umwelt::vdisk
