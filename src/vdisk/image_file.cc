// SPDX-License-Identifier: Apache-2.0
#include "vdisk/image_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "base/file.h"

namespace umwelt::vdisk {
namespace {

constexpr long kBtrfsMagic = 0x9123683E;
constexpr std::size_t kCopyBytes = 1U << 20;

// Copy-on-write below a filesystem that has its own journal halves the write speed; it must be
// switched off before the first byte.
void apply_no_cow(int file) {
  struct statfs status {};
  if (::fstatfs(file, &status) != 0 || status.f_type != kBtrfsMagic) return;
  int flags = 0;
  if (::ioctl(file, FS_IOC_GETFLAGS, &flags) != 0) return;
  flags |= FS_NOCOW_FL;
  ::ioctl(file, FS_IOC_SETFLAGS, &flags);
}

Result<void> pwrite_all(int file, const char* data, std::size_t size, std::uint64_t offset) {
  while (size > 0) {
    const ssize_t n = ::pwrite(file, data, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("write a vdisk's file");
    data += n;
    size -= static_cast<std::size_t>(n);
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<void> allocate(int file, std::uint64_t offset, std::uint64_t size) {
  if (::fallocate(file, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(size)) != 0)
    return fail_errno(fmt::format("allocate {} MiB for a vdisk", (size + (1U << 20) - 1) >> 20));
  return {};
}

Result<void> copy_range(int from, int to, off_t at, off_t end, std::string& buffer,
                        const std::function<void(std::uint64_t)>& copied) {
  while (at < end) {
    const auto want = std::min<std::size_t>(buffer.size(), static_cast<std::size_t>(end - at));
    const ssize_t n = ::pread(from, buffer.data(), want, at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read a vdisk's file");
    if (n == 0) return fail(EIO, "read a vdisk's file that became shorter");
    UMWELT_CHECK(
        pwrite_all(to, buffer.data(), static_cast<std::size_t>(n), static_cast<std::uint64_t>(at)));
    at += n;
    copied(static_cast<std::uint64_t>(n));
  }
  return {};
}

}  // namespace

Result<void> lock_file(int file, Lock kind) {
  struct flock lock {};
  lock.l_type = kind == Lock::kAlone ? F_WRLCK : F_RDLCK;
  if (::fcntl(file, F_OFD_SETLK, &lock) == 0) return {};
  return fail(errno == EAGAIN || errno == EACCES ? EBUSY : errno, "lock a vdisk's file");
}

bool is_locked_by_others(int file) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  return ::fcntl(file, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

Result<std::uint64_t> allocated_bytes(int file) {
  struct stat status {};
  if (::fstat(file, &status) != 0) return fail_errno("fstat a vdisk's file");
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

Result<UniqueFd> create_unnamed(int directory, std::uint64_t capacity_bytes) {
  UniqueFd file = UMWELT_TRY(open_at(directory, ".", O_TMPFILE | O_RDWR, 0600));
  UMWELT_CHECK(lock_file(file.get()));
  apply_no_cow(file.get());
  if (::ftruncate(file.get(), static_cast<off_t>(capacity_bytes)) != 0)
    return fail_errno(fmt::format("make a file of {} bytes", capacity_bytes));
  return file;
}

namespace {

Result<void> allocate_template(int file, const Template& t, Class c) {
  if (c == Class::kGuaranteed) {
    UMWELT_CHECK(allocate(file, 0, t.capacity_bytes));
  } else {
    for (const Extent& e : t.metadata) UMWELT_CHECK(allocate(file, e.offset, e.size));
  }
  return {};
}

// The extents from `first` to before `last`.
Result<void> write_extents(int file, const Template& t, std::size_t first, std::size_t last) {
  const char* data = t.data.data();
  for (std::size_t i = 0; i < last; ++i) {
    const Extent& e = t.extents[i];
    if (i >= first)
      UMWELT_CHECK(pwrite_all(file, data, static_cast<std::size_t>(e.size), e.offset));
    data += e.size;
  }
  return {};
}

}  // namespace

Result<void> write_template(int file, const Template& t, Class c) {
  UMWELT_CHECK(allocate_template(file, t, c));
  return write_extents(file, t, 0, t.extents.size());
}

Result<void> rewrite_template(int file, const Template& t, Class c) {
  if (::ftruncate(file, static_cast<off_t>(t.capacity_bytes)) != 0)
    return fail_errno("ftruncate a vdisk's file");
  if (::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                  static_cast<off_t>(t.capacity_bytes)) != 0)
    return fail_errno("give back a vdisk's blocks");
  UMWELT_CHECK(allocate_template(file, t, c));
  // The first extent has the superblock.
  UMWELT_CHECK(write_extents(file, t, 1, t.extents.size()));
  if (::fdatasync(file) != 0) return fail_errno("fdatasync a vdisk's file");
  return write_extents(file, t, 0, 1);
}

bool unused_for_long(int directory, const std::string& name) {
  constexpr std::time_t kLongS = 30L * 24 * 3600;
  struct stat status {};
  return ::fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
         std::time(nullptr) - status.st_atime > kLongS;
}

bool has_name(int file) {
  struct stat status {};
  return ::fstat(file, &status) == 0 && status.st_nlink > 0;
}

Result<void> link_file(int file, int directory, const std::string& name) {
  const std::string path = fmt::format("/proc/self/fd/{}", file);
  if (::linkat(AT_FDCWD, path.c_str(), directory, name.c_str(), AT_SYMLINK_FOLLOW) != 0)
    return fail_errno("link " + name);
  return {};
}

namespace {

// Calls `act` with beginning and end of each range that has data.
Result<void> for_each_data(int file, const std::function<Result<void>(off_t, off_t)>& act) {
  for (off_t at = 0;;) {
    const off_t data = ::lseek(file, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {};
    if (data < 0) return fail_errno("SEEK_DATA");
    at = ::lseek(file, data, SEEK_HOLE);
    if (at < 0) return fail_errno("SEEK_HOLE");
    UMWELT_CHECK(act(data, at));
  }
}

}  // namespace

Result<void> reserve_copy(int from, int to) {
  return for_each_data(from, [to](off_t begin, off_t end) {
    return allocate(to, static_cast<std::uint64_t>(begin), static_cast<std::uint64_t>(end - begin));
  });
}

Result<void> copy_file(int from, int to, bool may_share, const CopyProgress& progress,
                       const BeforeCopy& before) {
  struct stat status {};
  if (::fstat(from, &status) != 0) return fail_errno("fstat a vdisk's file");
  if (may_share && ::ioctl(to, FICLONE, from) == 0) return {};
  if (before) UMWELT_CHECK(before());
  if (::ftruncate(to, status.st_size) != 0) return fail_errno("ftruncate a vdisk's file");
  const auto total = std::max<std::uint64_t>(static_cast<std::uint64_t>(status.st_blocks) * 512, 1);
  std::uint64_t done = 0;
  const auto copied = [&](std::uint64_t n) {
    done += n;
    if (progress) progress(std::min(done, total), total);
  };
  std::string buffer(kCopyBytes, '\0');
  UMWELT_CHECK(for_each_data(from, [&](off_t begin, off_t end) {
    return copy_range(from, to, begin, end, buffer, copied);
  }));
  return {};
}

}  // namespace umwelt::vdisk
