// SPDX-License-Identifier: Apache-2.0
// The vdisks of one directory: NAME.img each, with its record inside (record.h). No process owns
// the store: what is in use is locked, what is not named does not exist.
#pragma once

#include <fcntl.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "vdisk/pool.h"
#include "vdisk/record.h"
#include "vdisk/template.h"
#include "vdisk/vdisk.h"

namespace umwelt::vdisk {

struct Entry {
  std::string name;
  std::optional<Record> record;  // nullopt: the file has none that can be read
  bool in_use = false;
};

struct Reconciled {
  std::vector<std::string> removed;  // of containers that are gone
  std::vector<std::string> unknown;  // "*.img" without a record: left alone
};

// Thread-safe, and safe against other processes with the same directory. Errors with code 0 are
// whole sentences; ENOENT, EEXIST, EBUSY say it of the vdisk's name.
class Store {
 public:
  // Makes the directories. `templates_directory` is where templates are cached.
  static Result<Store> open(const std::string& directory, const std::string& templates_directory,
                            const Policy& policy);

  int directory() const { return directory_.get(); }
  const Policy& policy() const { return policy_; }
  Result<Sums> sums(std::uint64_t unnamed_bytes = 0) const;  // see read_sums()

  // A capacity rounded up to whole blocks; an Error (code 0) when it is out of bounds.
  static Result<std::uint64_t> round_capacity(std::uint64_t bytes);

  // Whether a vdisk like that, with so much content, may be made now; a sentence (code 0) if not.
  Result<void> admit(const Record& record, std::uint64_t content_bytes) const;

  // --- new ones: first without a name, so that a crash leaves nothing

  // From a template, attached and mounted. `record` carries what was asked for; the id is made.
  Result<Disk> make(Record record) const;
  // A prepared one if the keeper of the pool has one of that capacity and class, else make().
  Result<Disk> take(Record record) const;
  Result<std::optional<Disk>> take_ready(Record record) const;
  // A whole root filesystem: a copy of `base`, an ext4 file of that capacity.
  Result<Disk> make_clone(Record record, int base, const CopyProgress& progress) const;
  // Admits it and gives it its name. A vdisk that is kept is on disk when this returns.
  Result<void> publish(Disk& disk, const std::string& name) const;
  // make() and publish() without attaching it.
  Result<void> create(Record record, const std::string& name) const;

  // --- existing ones

  Result<std::vector<Entry>> list() const;  // by name
  Result<Entry> find(const std::string& name) const;
  Result<Usage> usage(const std::string& name) const;

  // Attaches and mounts it. EBUSY when it is in use, unless its record says it is shared: then
  // another mount of the same superblock. Repairs what e2fsck -p may; EUCLEAN when that is not
  // enough. A scratch one that was not unmounted becomes an empty one.
  Result<Disk> attach(const std::string& name) const;
  // One that is in use. ENOTCONN when it is not.
  Result<Disk> join(const std::string& name) const;
  // The same for who only looks at it. EBUSY when somebody waits until nobody has it any more.
  Result<Disk> look(const std::string& name) const;
  // Its file with the lock, so that nobody attaches it. EBUSY when it is in use.
  Result<UniqueFd> lock(const std::string& name, Lock kind = Lock::kAlone) const;

  Result<void> remove(const std::string& name) const;  // EBUSY when it is in use
  // Without asking who uses it: for the container's own end. What is dirty in it is dropped. The
  // name is gone when this returns; the rest, which takes some milliseconds, is done by a process
  // that nobody waits for. It has `root`, the overlay on the vdisk, open too, which would else
  // write what is dirty when the caller closes it.
  void discard(Disk& disk, const std::string& name, int root = -1) const;

  // What `change` applies elsewhere comes before or after all of a refresh().
  Result<void> update(const std::string& name,
                      const std::function<Result<void>(Record&)>& change) const;
  // Reads the record of one in use again and calls `act`, before anybody can change the record.
  Result<void> refresh(Disk& disk, const std::function<Result<void>()>& act) const;
  // Offline either way; in use only larger (EPERM without CAP_SYS_RESOURCE).
  Result<void> resize(const std::string& name, std::uint64_t capacity_bytes) const;
  // A copy as of now under another name, by reflink where the filesystem can. In use: what was
  // synced is in it, and it is consistent. `read_only`: a snapshot, else a vdisk of its own.
  Result<void> copy(const std::string& name, const std::string& new_name, bool read_only,
                    const CopyProgress& progress) const;

  // Lets those go on that stand still for a copy whose processes were all killed; their names.
  Result<std::vector<std::string>> thaw_forgotten() const;

  // Removes what belongs to nobody: vdisks that are not kept and whose container is gone.
  Result<Reconciled> reconcile() const;

 private:
  Store(UniqueFd directory, std::string owner, std::shared_ptr<Templates> templates, Policy policy)
      : directory_(std::move(directory)),
        owner_(std::move(owner)),
        templates_(std::move(templates)),
        policy_(policy) {}

  // One of both: its file with the lock, or beside whoever uses it.
  struct Reached {
    UniqueFd file;
    std::optional<Disk> disk;
  };
  Result<Reached> reach(const std::string& name, Lock kind, bool only_if_shared) const;
  Result<UniqueFd> lock_unused(const std::string& name, Lock kind) const;
  Result<UniqueFd> note_waiting(const std::string& name) const;
  Result<void> make_mountable(int file, const Record& record) const;
  Result<UniqueFd> open_file(const std::string& name, int access = O_RDWR) const;
  Result<UniqueFd> lock_store() const;
  Result<void> admit(std::uint64_t capacity_bytes, std::uint64_t allocated_bytes) const;
  Result<std::shared_ptr<const Template>> admitted_template(const Record& record) const;
  Result<void> admit_growth(const Record& record, std::uint64_t before, std::uint64_t wanted) const;
  Result<UniqueFd> make_file(const Record& record, const Template& t) const;
  Result<void> reserve(int to, int from, const Record& record) const;
  Result<void> fill(int to, int from, const Record& record, const CopyProgress& progress) const;
  Result<void> copy_in_use(const Disk& disk, int to, const std::string& name,
                           const CopyProgress& progress) const;
  Result<void> grow_in_use(const std::string& name, std::uint64_t wanted) const;
  Result<void> link(int file, const Record& record, const std::string& name,
                    const std::string& ready_name = {}) const;

  UniqueFd directory_;
  std::string owner_;
  std::shared_ptr<Templates> templates_;
  Policy policy_;
};

}  // namespace umwelt::vdisk
