// SPDX-License-Identifier: Apache-2.0
// One vdisk in use: its file, the loop device on it, and a detached mount of the ext4 inside.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "base/child_process.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "vdisk/image_file.h"
#include "vdisk/loop.h"
#include "vdisk/record.h"
#include "vdisk/template.h"

namespace umwelt::vdisk {

// Owns descriptors only: when the last one of all users is closed, the filesystem is unmounted and
// the loop device detached, however the process ends. The vdisk's file is locked (lock_file)
// and the loop device keeps the lock, so "locked" means "in use". Not thread-safe.
class Disk {
 public:
  // A new one without a name in `directory`, from `t`; ENOSPC, EFBIG.
  static Result<Disk> make(int directory, const Template& t, const Record& record,
                           const std::string& owner);
  // An existing one, of whose file the caller has the lock. `owner` tells stores apart in the loop
  // device's name.
  static Result<Disk> attach(UniqueFd file, const Record& record, const std::string& owner);
  // One that somebody else has attached: another mount of the same superblock. ENOTCONN when nobody
  // has any more, or not yet.
  static Result<Disk> join(UniqueFd file, const Record& record);

  // A prepared one (ready.h) by descriptors of its loop device and its mount; nullopt where they
  // are not those of the file.
  static std::optional<Disk> take_over(UniqueFd file, const Record& record, UniqueFd loop,
                                       UniqueFd mount);

  const Record& record() const { return record_; }
  Record& record() { return record_; }
  int file() const { return file_.get(); }
  int mount() const { return mount_.get(); }  // the whole ext4: upper/, work/, lost+found/
  Loop& loop() { return loop_; }
  const Loop& loop() const { return loop_; }

  // Of one that take_over() gave: its name in the store until it is published, "" of all others.
  const std::string& ready_name() const { return ready_name_; }
  void set_ready_name(std::string name) { ready_name_ = std::move(name); }

  // Sets the record's speed limits on the device, for a container that uses it. The last such user
  // who lifts them takes them away. Without it, or killed, they stay until lift_forgotten_limits().
  Result<void> apply_limits();
  void lift_limits();

  // Ends the filesystem at once, without writing what is dirty: for a vdisk that nobody keeps.
  void shut_down();

 private:
  Disk(Record record, UniqueFd file, Loop loop, UniqueFd mount)
      : record_(std::move(record)),
        file_(std::move(file)),
        loop_(std::move(loop)),
        mount_(std::move(mount)) {}
  static Result<Disk> mount_on(UniqueFd file, const Record& record, Loop loop);

  Record record_;
  UniqueFd file_;
  Loop loop_;
  UniqueFd mount_;
  UniqueFd limited_;  // the vdisk's file, with a shared flock(2) of each user of its limits
  std::string ready_name_;
};

// Whether a loop device is attached to the file.
bool is_attached(int file);

// A detached mount of the volume's root: what is mounted in the container.
Result<UniqueFd> volume_root(const Disk& disk, bool read_only);

// --- upkeep --------------------------------------------------------------------------------------

struct Usage {
  std::uint64_t capacity_bytes = 0;   // of the file
  std::uint64_t usable_bytes = 0;     // for files inside: what df shows as the size
  std::uint64_t live_bytes = 0;       // used by files inside
  std::uint64_t allocated_bytes = 0;  // on the host
  std::uint64_t inodes = 0, used_inodes = 0;
  bool attached = false;
  bool guaranteed = false;  // keeps what it has allocated

  // Allocated without need: what a trim can give back (an estimate).
  std::uint64_t reclaimable_bytes() const;
};
Result<Usage> usage(const Disk& disk);
// Of one that is not attached, from its superblock.
Result<Usage> read_usage(int file);

// FITRIM; returns how many bytes the filesystem offered. ENOTSUP: a guaranteed one.
Result<std::uint64_t> trim(const Disk& disk);

// So long a filesystem stands still without any progress of the copy that it does so for.
inline constexpr std::chrono::seconds kFreezePatience{5};

// The filesystem stands still, all of it on the file, as long as this lives and no longer, also
// when this process is killed, is stopped, or hangs. Code 0: it stands still already.
class Frozen {
 public:
  static Result<Frozen> freeze(const Disk& disk);
  // To be called again within kFreezePatience, or it goes on.
  void note_progress() const;
  // EIO: somebody else did it before. ETIMEDOUT: there was no progress for too long.
  Result<void> thaw();
  Frozen(Frozen&&) = default;
  Frozen& operator=(Frozen&&) = delete;
  ~Frozen();

 private:
  Frozen(ChildProcess keeper, UniqueFd link, UniqueFd root)
      : keeper_(std::move(keeper)), link_(std::move(link)), root_(std::move(root)) {}
  ChildProcess keeper_;
  UniqueFd link_, root_;
};

// Ends a standstill that killed processes have left; no more than that when there is none.
Result<void> thaw(const Disk& disk);

// `to` becomes a copy that is consistent and has what was synced; without reflinks the filesystem
// stands still meanwhile, and `before` is called before that.
Result<void> copy_attached(const Disk& disk, int to, const CopyProgress& progress,
                           const BeforeCopy& before = {});

// Makes loop device and filesystem as large as the file, which was `before` bytes long, while it is
// in use. EPERM: this process lacks CAP_SYS_RESOURCE. After another failure the file stays longer
// than the record says, which is the caller's to write.
Result<void> grow_attached(Disk& disk, std::uint64_t before, std::uint64_t capacity_bytes);

// Of a file that is not attached and whose lock the caller has:

enum class Health { kClean, kRepaired, kDamaged };
struct Report {
  Health health = Health::kClean;
  std::string text;  // what e2fsck said
};
enum class Effort { kLook, kSafe, kEverything };  // e2fsck -n, -p, -y
Result<Report> check(int file, Effort effort);
// Whether its superblock says that it was unmounted, and without errors. With a journal it says so
// while it is mounted, too.
bool is_clean(int file);
// Does what e2fsck may (-p, without a journal -y) where it is not clean. EUCLEAN: not enough.
Result<void> make_mountable(int file);
// Larger, which the file is already, or (down to what is in it) smaller, which it becomes. A
// damaged one is refused with EUCLEAN.
Result<void> resize(int file, Class c, std::uint64_t capacity_bytes);
// Makes the file longer; a guaranteed one stays as it is if there is no space for all of it.
Result<void> lengthen(int file, Class c, std::uint64_t before, std::uint64_t bytes);
// What a new vdisk of the class has allocated: for a copy, or one that has become larger.
// `filesystem` is the file or the device on it.
Result<void> allocate_for(int file, Class c, std::uint64_t capacity_bytes, int filesystem);

}  // namespace umwelt::vdisk
