// SPDX-License-Identifier: Apache-2.0
#include "vdisk/store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "base/child_process.h"
#include "base/file.h"
#include "base/parse.h"
#include "vdisk/image_file.h"

namespace umwelt::vdisk {
namespace {

constexpr std::string_view kSuffix = ".img";
// Whoever waits to attach a vdisk has the lock (fcntl(2), F_OFD_SETLK) of one byte of it, the one
// whose offset is the inode of the vdisk's file.
constexpr const char* kWaiting = ".waiting";
constexpr const char* kResizeLock = ".resize";  // one at a time gets another size

std::string file_name(const std::string& name) { return name + std::string(kSuffix); }

Result<void> apply_length(int file, std::uint64_t bytes) {
  if (::ftruncate(file, static_cast<off_t>(bytes)) != 0)
    return fail_errno(fmt::format("make a file of {} bytes", bytes));
  return {};
}

Result<std::uint64_t> length_of(int file) {
  struct stat status {};
  if (::fstat(file, &status) != 0) return fail_errno("fstat a vdisk's file");
  return static_cast<std::uint64_t>(status.st_size);
}

Result<void> check_changeable(const Record& record, const std::string& name) {
  if (record.snapshot_of.empty()) return {};
  return fail(0, fmt::format("{} is a snapshot, which stays as it is: clone it", name));
}

// The lock of kWaiting's byte for that vdisk.
struct flock waiting_lock(int file) {
  struct stat status {};
  ::fstat(file, &status);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_start = static_cast<off_t>(status.st_ino & ~(1ULL << 63));
  lock.l_len = 1;
  return lock;
}

std::uint64_t allocated_at_once(Class c, std::uint64_t capacity_bytes) {
  return c == Class::kGuaranteed ? capacity_bytes : least_metadata_bytes(capacity_bytes);
}

Result<void> sync_all(int file, int directory) {
  if (::fsync(file) != 0) return fail_errno("fsync a vdisk's file");
  if (::fsync(directory) != 0) return fail_errno("fsync the directory of vdisks");
  return {};
}

}  // namespace

Result<Store> Store::open(const std::string& directory, const std::string& templates_directory,
                          const Policy& policy) {
  UMWELT_CHECK(make_directories(directory, 0700));
  UniqueFd fd = UMWELT_TRY(open_at(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY));
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return fail_errno("fstat " + directory);
  return Store(std::move(fd), fmt::format("{:x}-{:x}", status.st_dev, status.st_ino),
               std::make_shared<Templates>(templates_directory), policy);
}

Result<std::uint64_t> Store::round_capacity(std::uint64_t bytes) {
  if (bytes < kMinCapacityBytes || bytes > kMaxCapacityBytes)
    return fail(0, fmt::format("a capacity of {} bytes is not between {} MiB and {} TiB", bytes,
                               kMinCapacityBytes >> 20, kMaxCapacityBytes >> 40));
  return (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
}

// Two that are created at the same moment can't both have the last of the pool.
Result<UniqueFd> Store::lock_store() const {
  UniqueFd lock = UMWELT_TRY(open_at(directory_.get(), ".", O_RDONLY | O_DIRECTORY));
  if (::flock(lock.get(), LOCK_EX) != 0) return fail_errno("lock the directory of vdisks");
  return lock;
}

// Not of the descriptor that has the lock: btrfs lists what was there when it was opened, which is
// before the lock was had.
Result<Sums> Store::sums(std::uint64_t unnamed_bytes) const {
  const UniqueFd listing = UMWELT_TRY(open_at(directory_.get(), ".", O_RDONLY | O_DIRECTORY));
  return read_sums(listing.get(), policy_, unnamed_bytes);
}

Result<void> Store::admit(std::uint64_t capacity_bytes, std::uint64_t allocated_bytes) const {
  const Sums now = UMWELT_TRY(sums());
  return vdisk::admit(now, capacity_bytes, allocated_bytes);
}

Result<void> Store::admit(const Record& record, std::uint64_t content_bytes) const {
  const std::uint64_t at_once = allocated_at_once(record.cls, record.capacity_bytes);
  return admit(record.capacity_bytes, std::max(at_once, content_bytes));
}

// Asked before, too: the template of a capacity that is refused may be huge.
Result<std::shared_ptr<const Template>> Store::admitted_template(const Record& record) const {
  UMWELT_CHECK(admit(record, 0));
  auto t = UMWELT_TRY(templates_->get(record.capacity_bytes, record.cls));
  UMWELT_CHECK(admit(record, t->metadata_bytes()));
  return t;
}

// Of guaranteed ones that are made at the same moment each finds what the others take.
Result<UniqueFd> Store::make_file(const Record& record, const Template& t) const {
  UniqueFd file = UMWELT_TRY(create_unnamed(directory_.get(), record.capacity_bytes));
  if (record.cls == Class::kGuaranteed) {
    const UniqueFd lock = UMWELT_TRY(lock_store());
    UMWELT_CHECK(admit(record, 0));
    UMWELT_CHECK(allocate_for(file.get(), record.cls, record.capacity_bytes, file.get()));
  }
  UMWELT_CHECK(write_template(file.get(), t, record.cls));
  return file;
}

Result<Disk> Store::make(Record record) const {
  record.capacity_bytes = UMWELT_TRY(round_capacity(record.capacity_bytes));
  record.id = random_id();
  record.created_s = std::time(nullptr);
  const auto t = UMWELT_TRY(admitted_template(record));
  return Disk::attach(UMWELT_TRY(make_file(record, *t)), record, owner_);
}

Result<Disk> Store::take(Record record) const {
  record.capacity_bytes = UMWELT_TRY(round_capacity(record.capacity_bytes));
  record.created_s = std::time(nullptr);
  if (auto ready = UMWELT_TRY(take_ready(record))) return std::move(*ready);
  return make(std::move(record));
}

Result<void> Store::link(int file, const Record& record, const std::string& name,
                         const std::string& ready_name) const {
  UMWELT_CHECK(write_record(file, record));
  UniqueFd lock = UMWELT_TRY(lock_store());
  // Others that were made meanwhile did not see what it has taken of a pool of a given size.
  const std::uint64_t unseen = ready_name.empty() ? UMWELT_TRY(allocated_bytes(file)) : 0;
  const Sums now = UMWELT_TRY(sums(unseen));
  UMWELT_CHECK(vdisk::admit(now, record.capacity_bytes, 0));
  if (!ready_name.empty()) {
    if (::renameat2(directory_.get(), ready_name.c_str(), directory_.get(), file_name(name).c_str(),
                    RENAME_NOREPLACE) != 0)
      return fail(errno, name);
  } else if (auto linked = link_file(file, directory_.get(), file_name(name)); !linked) {
    return fail(linked.error().code, name);
  }
  lock.reset();  // every creation waits for it, and what follows may take long
  return record.keep ? sync_all(file, directory_.get()) : Result<void>();
}

Result<void> Store::publish(Disk& disk, const std::string& name) const {
  UMWELT_CHECK(check_name(name));
  UMWELT_CHECK(link(disk.file(), disk.record(), name, disk.ready_name()));
  disk.set_ready_name({});
  return {};
}

Result<void> Store::create(Record record, const std::string& name) const {
  UMWELT_CHECK(check_name(name));
  record.capacity_bytes = UMWELT_TRY(round_capacity(record.capacity_bytes));
  record.id = random_id();
  record.created_s = std::time(nullptr);
  const auto t = UMWELT_TRY(admitted_template(record));
  const UniqueFd file = UMWELT_TRY(make_file(record, *t));
  return link(file.get(), record, name);
}

Result<UniqueFd> Store::open_file(const std::string& name, int access) const {
  UMWELT_CHECK(check_name(name));
  auto file = open_at(directory_.get(), file_name(name), access | O_NOFOLLOW | O_NONBLOCK);
  if (!file) return fail(file.error().code, name);
  struct stat status {};
  if (::fstat(file->get(), &status) != 0) return fail_errno(name);
  if (!S_ISREG(status.st_mode)) return fail(EINVAL, name);
  return file;
}

Result<std::vector<Entry>> Store::list() const {
  auto names = UMWELT_TRY(read_names_at(directory_.get(), "."));
  std::vector<Entry> entries;
  for (std::string& name : names) {
    if (!name.ends_with(kSuffix)) continue;
    name.resize(name.size() - kSuffix.size());
    if (auto entry = find(name)) entries.push_back(std::move(*entry));
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.name < b.name; });
  return entries;
}

Result<Entry> Store::find(const std::string& name) const {
  const UniqueFd file = UMWELT_TRY(open_file(name, O_RDONLY));
  Entry entry{.name = name, .record = {}, .in_use = is_locked_by_others(file.get())};
  if (auto record = read_record(file.get())) entry.record = std::move(*record);
  return entry;
}

Result<Usage> Store::usage(const std::string& name) const {
  UniqueFd file = UMWELT_TRY(open_file(name, O_RDONLY));
  const Record record = UMWELT_TRY(read_record(file.get()));
  const auto usage_now = [&]() -> Result<Usage> {
    if (is_locked_by_others(file.get())) {
      if (const auto disk = look(name)) return vdisk::usage(*disk);
    }
    return read_usage(file.get());
  };
  Usage usage = UMWELT_TRY(usage_now());
  usage.guaranteed = record.cls == Class::kGuaranteed;
  return usage;
}

Result<UniqueFd> Store::lock_unused(const std::string& name, Lock kind) const {
  UniqueFd file = UMWELT_TRY(open_file(name));
  if (auto locked = lock_file(file.get(), kind); !locked) return fail(locked.error().code, name);
  if (!has_name(file.get())) return fail(ENOENT, name);
  return file;
}

Result<UniqueFd> Store::lock(const std::string& name, Lock kind) const {
  UniqueFd file = UMWELT_TRY(lock_unused(name, kind));
  // A prepared one (ready.h) is attached a moment longer than its user has the lock.
  if (is_attached(file.get())) return fail(EBUSY, name);
  return file;
}

Result<Disk> Store::join(const std::string& name) const {
  UniqueFd file = UMWELT_TRY(open_file(name));
  const Record record = UMWELT_TRY(read_record(file.get()));
  return Disk::join(std::move(file), record);
}

Result<Disk> Store::look(const std::string& name) const {
  UniqueFd file = UMWELT_TRY(open_file(name));
  struct flock lock = waiting_lock(file.get());
  if (const auto waiting = open_at(directory_.get(), kWaiting, O_RDONLY | O_NOFOLLOW))
    if (::fcntl(waiting->get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK)
      return fail(EBUSY, name);
  const Record record = UMWELT_TRY(read_record(file.get()));
  return Disk::join(std::move(file), record);
}

// Until the descriptor is closed nobody joins the vdisk who only looks. The first of several who
// wait is enough.
Result<UniqueFd> Store::note_waiting(const std::string& name) const {
  const UniqueFd file = UMWELT_TRY(open_file(name, O_RDONLY));
  UniqueFd waiting =
      UMWELT_TRY(open_at(directory_.get(), kWaiting, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  struct flock lock = waiting_lock(file.get());
  (void)::fcntl(waiting.get(), F_OFD_SETLK, &lock);
  return waiting;
}

Result<Store::Reached> Store::reach(const std::string& name, Lock kind, bool only_if_shared) const {
  // While somebody else is about to attach or to let go, also who only looks at it.
  constexpr int kTries = 300;
  UniqueFd waiting;
  for (int attempt = 0;; ++attempt) {
    auto file = lock(name, kind);
    if (file) return Reached{std::move(*file), {}};
    const Entry entry = UMWELT_TRY(find(name));
    if (file.error().code != EBUSY || !entry.record) return fail(file.error());
    if (!only_if_shared || entry.record->shared) {
      auto joined = join(name);
      if (joined) return Reached{{}, std::move(*joined)};
      if (joined.error().code != ENOTCONN) return fail(joined.error());
    }
    if (attempt == kTries) return fail(EBUSY, name);
    if (!waiting) waiting = UMWELT_TRY(note_waiting(name));
    const timespec pause{0, 10'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

Result<Disk> Store::attach(const std::string& name) const {
  Reached reached = UMWELT_TRY(reach(name, Lock::kAlone, true));
  if (reached.disk) return *std::move(reached.disk);
  const Record record = UMWELT_TRY(read_record(reached.file.get()));
  UMWELT_CHECK(check_changeable(record, name));
  UMWELT_CHECK(make_mountable(reached.file.get(), record));
  return Disk::attach(std::move(reached.file), record, owner_);
}

// Of a scratch one that was not unmounted nobody knows which of its content was written; a clone is
// all that it has of its image.
Result<void> Store::make_mountable(int file, const Record& record) const {
  if (record.cls != Class::kScratch || record.kind == Kind::kClone || is_clean(file))
    return vdisk::make_mountable(file);
  const auto t = UMWELT_TRY(templates_->get(record.capacity_bytes, record.cls));
  return rewrite_template(file, *t, record.cls);
}

Result<void> Store::remove(const std::string& name) const {
  const UniqueFd file = UMWELT_TRY(lock_unused(name, Lock::kAlone));
  if (::unlinkat(directory_.get(), file_name(name).c_str(), 0) != 0) return fail_errno(name);
  return {};
}

void Store::discard(Disk& disk, const std::string& name, int root) const {
  ::unlinkat(directory_.get(), file_name(name).c_str(), 0);
  // Made here: the child allocates nothing, whatever lock another thread had.
  std::vector<int> kept = {root, disk.file(), disk.loop().fd(), disk.mount()};
  const auto child = clone_child(0);
  if (!child) return disk.shut_down();
  if (*child) return;
  ::setsid();  // no interrupt of the caller's terminal
  close_all_but(std::move(kept));
  disk.shut_down();
  ::_exit(0);
}

Result<void> Store::update(const std::string& name,
                           const std::function<Result<void>(Record&)>& change) const {
  const UniqueFd lock = UMWELT_TRY(lock_store());
  const UniqueFd file = UMWELT_TRY(open_file(name));
  Record record = UMWELT_TRY(read_record(file.get()));
  UMWELT_CHECK(change(record));
  UMWELT_CHECK(write_record(file.get(), record));
  return record.keep ? sync_all(file.get(), directory_.get()) : Result<void>();
}

Result<void> Store::refresh(Disk& disk, const std::function<Result<void>()>& act) const {
  const UniqueFd lock = UMWELT_TRY(lock_store());
  disk.record() = UMWELT_TRY(read_record(disk.file()));
  return act();
}

Result<void> Store::admit_growth(const Record& record, std::uint64_t before,
                                 std::uint64_t wanted) const {
  const std::uint64_t growth = saturating_sub(wanted, before);
  if (growth == 0) return {};
  return admit(growth, allocated_at_once(record.cls, growth));
}

Result<void> Store::grow_in_use(const std::string& name, std::uint64_t wanted) const {
  auto disk = join(name);
  if (!disk) return fail(disk.error().code == ENOTCONN ? EBUSY : disk.error().code, name);
  const Record& record = disk->record();
  if (wanted <= record.capacity_bytes)
    return fail(0,
                fmt::format("{} is in use and only grows, from its {} MiB: give more, or stop its "
                            "container first",
                            name, record.capacity_bytes >> 20));
  UniqueFd store_lock = UMWELT_TRY(lock_store());
  const std::uint64_t before = UMWELT_TRY(length_of(disk->file()));
  UMWELT_CHECK(admit_growth(record, before, wanted));
  if (wanted > before) UMWELT_CHECK(lengthen(disk->file(), record.cls, before, wanted));
  // A filesystem that stands still, for a copy, grows when that is made.
  store_lock.reset();
  const auto grown = grow_attached(*disk, before, wanted);
  if (record.capacity_bytes != wanted) return grown;
  UMWELT_CHECK(update(name, [&](Record& r) -> Result<void> {
    r.capacity_bytes = wanted;
    return {};
  }));
  return grown;
}

// The file's length counts, not what the record says: that is written last, so a kill leaves it
// behind the filesystem.
Result<void> Store::resize(const std::string& name, std::uint64_t capacity_bytes) const {
  const std::uint64_t wanted = UMWELT_TRY(round_capacity(capacity_bytes));
  const UniqueFd turn =
      UMWELT_TRY(open_at(directory_.get(), kResizeLock, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (::flock(turn.get(), LOCK_EX) != 0) return fail_errno("wait for another vdisk's new size");
  const auto file = lock(name);
  if (!file && file.error().code != EBUSY) return fail(file.error());
  if (!file) return grow_in_use(name, wanted);
  const Record record = UMWELT_TRY(read_record(file->get()));
  UMWELT_CHECK(check_changeable(record, name));
  UMWELT_CHECK(make_mountable(file->get(), record));
  UniqueFd store_lock = UMWELT_TRY(lock_store());
  const std::uint64_t before = UMWELT_TRY(length_of(file->get()));
  UMWELT_CHECK(admit_growth(record, before, wanted));
  // Its length is what others count as promised, so they need not wait for the rest.
  if (wanted > before) UMWELT_CHECK(lengthen(file->get(), record.cls, before, wanted));
  store_lock.reset();
  if (auto resized = vdisk::resize(file->get(), record.cls, wanted); !resized) {
    if (const auto s = read_superblock(file->get()); s && wanted > before)
      UMWELT_CHECK(apply_length(file->get(), std::max(before, s->blocks * s->block_bytes)));
    return resized;
  }
  const auto updated = update(name, [&](Record& r) -> Result<void> {
    r.capacity_bytes = wanted;
    return {};
  });
  UMWELT_CHECK(updated);
  return sync_all(file->get(), directory_.get());
}

Result<Reconciled> Store::reconcile() const {
  Reconciled result;
  for (const Entry& entry : UMWELT_TRY(list())) {
    if (!entry.record) {
      result.unknown.push_back(entry.name);
    } else if (!entry.record->keep && !entry.in_use && remove(entry.name)) {
      result.removed.push_back(entry.name);
    }
  }
  return result;
}

}  // namespace umwelt::vdisk
