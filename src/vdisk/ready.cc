// SPDX-License-Identifier: Apache-2.0
#include "vdisk/ready.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "base/parse.h"
#include "vdisk/image_file.h"
#include "vdisk/paths.h"
#include "vdisk/tree_writer.h"

namespace umwelt::vdisk {
namespace {

constexpr char kAttribute[] = "trusted.umwelt.ready";

std::string prefix_of(std::uint64_t capacity_bytes, Class c) {
  return fmt::format("{}-{}-", capacity_bytes, name_of(c));
}

bool same_file(int directory, const std::string& name, int file) {
  struct stat a {
  }, b{};
  return ::fstatat(directory, name.c_str(), &a, AT_SYMLINK_NOFOLLOW) == 0 &&
         ::fstat(file, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

UniqueFd copy_descriptor(int process, std::uint64_t fd) {
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_getfd, process, fd, 0)));
}

// The first touch is the slow one: overlayfs makes work/work, ext4 its first inode and directory
// block.
Result<void> warm_up(const Disk& disk) {
  const UniqueFd upper = UMWELT_TRY(open_at(disk.mount(), "upper", O_RDONLY | O_DIRECTORY));
  if (::mkdirat(disk.mount(), "work/work", 0) != 0 ||
      ::unlinkat(disk.mount(), "work/work", AT_REMOVEDIR) != 0)
    return fail_errno("warm up a vdisk");
  UMWELT_TRY(open_at(upper.get(), ".warm", O_WRONLY | O_CREAT | O_EXCL, 0600));
  if (::unlinkat(upper.get(), ".warm", 0) != 0) return fail_errno("warm up a vdisk");
  if (::syncfs(upper.get()) != 0) return fail_errno("sync a vdisk");
  return {};
}

// Descriptors of the process that prepared it, or nothing where anything about them is not as it
// should be.
std::optional<Disk> take_over(UniqueFd file, const Record& record) {
  std::string text(128, '\0');
  const ssize_t n = ::fgetxattr(file.get(), kAttribute, text.data(), text.size());
  if (n < 0) return std::nullopt;
  std::string_view rest(text.data(), static_cast<std::size_t>(n));
  const auto pid = parse_u64(next_word(rest)), loop = parse_u64(next_word(rest)),
             mount = parse_u64(next_word(rest));
  if (!pid || !loop || !mount) return std::nullopt;
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, *pid, 0)));
  if (!process) return std::nullopt;
  return Disk::take_over(std::move(file), record, copy_descriptor(process.get(), *loop),
                         copy_descriptor(process.get(), *mount));
}

}  // namespace

Result<std::optional<Disk>> Store::take_ready(Record record) const {
  const auto folder = open_at(directory_.get(), kReadyFolder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!folder) return std::optional<Disk>();
  const auto names = read_names(folder->get());
  if (!names) return std::optional<Disk>();
  const std::string prefix = prefix_of(record.capacity_bytes, record.cls);
  for (const std::string& name : *names) {
    if (!name.starts_with(prefix)) continue;
    auto file = open_at(folder->get(), name, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
    // Whoever has this lock, as long as the file is open, may take it; then it has another name.
    if (!file || ::flock(file->get(), LOCK_EX | LOCK_NB) != 0 ||
        !same_file(folder->get(), name, file->get()))
      continue;
    record.id = name.substr(prefix.size());
    auto disk = take_over(std::move(*file), record);
    if (!disk) continue;
    disk->set_ready_name(std::string(kReadyFolder) + "/" + name);
    return disk;
  }
  return std::optional<Disk>();
}

Result<void> ReadyPool::clear(const Store& store) {
  const auto directory =
      open_at(store.directory(), kReadyFolder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!directory)
    return directory.error().code == ENOENT ? Result<void>() : fail(directory.error());
  for (const std::string& name : UMWELT_TRY(read_names(directory->get())))
    UMWELT_CHECK(remove_below(directory->get(), name));
  return {};
}

Result<ReadyPool> ReadyPool::open(const Store& store, const ReadyWish& wish) {
  if (::mkdirat(store.directory(), kReadyFolder, 0700) != 0 && errno != EEXIST)
    return fail_errno("make the folder of prepared vdisks");
  UniqueFd directory =
      UMWELT_TRY(open_at(store.directory(), kReadyFolder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  UMWELT_CHECK(clear(store));
  UniqueFd notice(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!notice) return fail_errno("inotify_init1");
  if (::inotify_add_watch(notice.get(), fmt::format("/proc/self/fd/{}", directory.get()).c_str(),
                          IN_MOVED_FROM | IN_DELETE) < 0)
    return fail_errno("watch the folder of prepared vdisks");
  return ReadyPool(std::move(directory), std::move(notice), store, wish);
}

void ReadyPool::drop_taken() {
  char events[4096];
  while (::read(notice_.get(), events, sizeof events) > 0) {
  }
  std::erase_if(disks_, [this](const Prepared& p) {
    return !same_file(directory_.get(), p.name, p.disk.file());
  });
}

Result<void> ReadyPool::make_one() {
  Record record;
  record.cls = wish_.cls;
  record.capacity_bytes = wish_.capacity_bytes;
  record.keep = false;
  Disk disk = UMWELT_TRY(store_->make(record));
  UMWELT_CHECK(warm_up(disk));
  UMWELT_CHECK(write_record(disk.file(), disk.record()));
  const std::string where = fmt::format("{} {} {}", ::getpid(), disk.loop().fd(), disk.mount());
  if (::fsetxattr(disk.file(), kAttribute, where.data(), where.size(), 0) != 0)
    return fail_errno("note a prepared vdisk");
  std::string name = prefix_of(wish_.capacity_bytes, wish_.cls) + disk.record().id;
  UMWELT_CHECK(link_file(disk.file(), directory_.get(), name));
  disks_.push_back({std::move(name), std::move(disk)});
  return {};
}

Result<unsigned> ReadyPool::refill(bool may_make, unsigned most) {
  drop_taken();
  if (!may_make) {
    while (!disks_.empty()) {
      Prepared& last = disks_.back();
      // One that is being taken in this moment is no longer ours to end.
      const auto claim = open_at(directory_.get(), last.name, O_RDONLY | O_NOFOLLOW);
      if (claim && ::flock(claim->get(), LOCK_EX | LOCK_NB) == 0) {
        last.disk.shut_down();
        ::unlinkat(directory_.get(), last.name.c_str(), 0);
      }
      disks_.pop_back();
    }
    return 0U;
  }
  for (unsigned i = 0; i < most && disks_.size() < wish_.count; ++i) UMWELT_CHECK(make_one());
  return static_cast<unsigned>(wish_.count - std::min<std::size_t>(wish_.count, disks_.size()));
}

}  // namespace umwelt::vdisk
