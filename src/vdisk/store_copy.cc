// SPDX-License-Identifier: Apache-2.0
// The store's copies: clones of images, clones and snapshots of vdisks.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <ctime>

#include "base/file.h"
#include "vdisk/image_file.h"
#include "vdisk/store.h"

namespace umwelt::vdisk {
namespace {

// Begins the name of an empty file that says: this vdisk stands still. The copying process and the
// one that ends the standstill have its lock; when it is free, both were killed.
constexpr const char* kStandstill = ".standstill-";

}  // namespace

// Two copies that are made at the same moment can't both have the last of the pool.
Result<void> Store::reserve(int to, int from, const Record& record) const {
  const std::uint64_t allocated = UMWELT_TRY(allocated_bytes(from));
  const UniqueFd lock = UMWELT_TRY(lock_store());
  UMWELT_CHECK(admit(record, allocated));
  if (record.cls == Class::kGuaranteed)
    return allocate_for(to, record.cls, record.capacity_bytes, from);
  return reserve_copy(from, to);
}

// What is allocated but was never written, as most of a journal, is a hole in a copy, also in a
// reflink.
Result<void> Store::fill(int to, int from, const Record& record,
                         const CopyProgress& progress) const {
  const bool may_share = record.cls != Class::kGuaranteed;
  UMWELT_CHECK(copy_file(from, to, may_share, progress, [&] { return reserve(to, from, record); }));
  return allocate_for(to, record.cls, record.capacity_bytes, to);
}

Result<Disk> Store::make_clone(Record record, int base, const CopyProgress& progress) const {
  record.id = random_id();
  record.created_s = std::time(nullptr);
  UMWELT_CHECK(admit(record, 0));
  UniqueFd file = UMWELT_TRY(create_unnamed(directory_.get(), 0));
  UMWELT_CHECK(fill(file.get(), base, record, progress));
  return Disk::attach(std::move(file), record, owner_);
}

Result<void> Store::copy_in_use(const Disk& disk, int to, const std::string& name,
                                const CopyProgress& progress) const {
  const std::string path = kStandstill + name;
  UniqueFd note;
  const auto copied = copy_attached(disk, to, progress, [&]() -> Result<void> {
    UMWELT_CHECK(reserve(to, disk.file(), disk.record()));
    while (!note || !has_name(note.get())) {
      note = UMWELT_TRY(open_at(directory_.get(), path, O_RDONLY | O_CREAT | O_NOFOLLOW, 0600));
      if (::flock(note.get(), LOCK_SH) != 0) return fail_errno("note that a vdisk stands still");
    }
    return {};
  });
  // Not when another copy of it is made, which is the one that it stands still for.
  if (note && ::flock(note.get(), LOCK_EX | LOCK_NB) == 0)
    ::unlinkat(directory_.get(), path.c_str(), 0);
  return copied;
}

Result<std::vector<std::string>> Store::thaw_forgotten() const {
  std::vector<std::string> thawed;
  for (const std::string& file : UMWELT_TRY(read_names_at(directory_.get(), "."))) {
    if (!file.starts_with(kStandstill)) continue;
    const auto note = open_at(directory_.get(), file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if (!note || ::flock(note->get(), LOCK_EX | LOCK_NB) != 0) continue;
    const std::string name = file.substr(std::string_view(kStandstill).size());
    const auto disk = join(name);
    // Again, until it goes on or is not in use any more.
    if (disk ? !thaw(*disk) : disk.error().code != ENOTCONN && disk.error().code != ENOENT)
      continue;
    ::unlinkat(directory_.get(), file.c_str(), 0);
    if (disk) thawed.push_back(name);
  }
  return thawed;
}

Result<void> Store::copy(const std::string& name, const std::string& new_name, bool read_only,
                         const CopyProgress& progress) const {
  UMWELT_CHECK(check_name(new_name));
  // Before all is copied; link() says the same of one that came meanwhile.
  if (find(new_name)) return fail(EEXIST, new_name);
  const Reached from = UMWELT_TRY(reach(name, Lock::kShared, false));
  const int file = from.disk ? from.disk->file() : from.file.get();
  Record record = UMWELT_TRY(read_record(file));
  const std::uint64_t allocated = UMWELT_TRY(allocated_bytes(file));
  UMWELT_CHECK(admit(record.capacity_bytes, allocated));
  const UniqueFd to = UMWELT_TRY(create_unnamed(directory_.get(), 0));
  if (from.disk) {
    UMWELT_CHECK(copy_in_use(*from.disk, to.get(), name, progress));
    UMWELT_CHECK(allocate_for(to.get(), record.cls, record.capacity_bytes, to.get()));
  } else {
    UMWELT_CHECK(fill(to.get(), file, record, progress));
  }
  record.id = random_id();
  record.created_s = std::time(nullptr);
  record.snapshot_of = read_only ? name : "";
  record.keep = true;
  // It has no name before all of it is on disk.
  if (::fsync(to.get()) != 0) return fail_errno("fsync a vdisk's file");
  return link(to.get(), record, new_name);
}

}  // namespace umwelt::vdisk
