// SPDX-License-Identifier: Apache-2.0
// Vdisks that are attached, mounted and touched beforehand, so that a container needs no more than
// an overlay. They lie unnamed as far as the store is concerned, in its folder .ready; the process
// that made them holds them open. Whoever needs one copies that process's descriptors
// (pidfd_getfd(2)), and gives it its name when it is published.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "vdisk/store.h"

namespace umwelt::vdisk {

struct ReadyWish {
  std::uint64_t capacity_bytes = 0;
  Class cls = Class::kThin;
  unsigned count = 0;
};

// The keeper's side. Not thread-safe; one for a store.
class ReadyPool {
 public:
  static Result<ReadyPool> open(const Store& store, const ReadyWish& wish);
  // Removes those of a keeper that is gone.
  static Result<void> clear(const Store& store);

  // Readable when one was taken.
  int notice() const { return notice_.get(); }
  // Lets go of those that were taken and makes what is missing, `most` at a time. Returns how many
  // are still missing. `may_make` false: lets go of all of them.
  Result<unsigned> refill(bool may_make, unsigned most = 1);
  std::size_t size() const { return disks_.size(); }

 private:
  struct Prepared {
    std::string name;
    Disk disk;
  };
  ReadyPool(UniqueFd directory, UniqueFd notice, const Store& store, const ReadyWish& wish)
      : directory_(std::move(directory)), notice_(std::move(notice)), store_(&store), wish_(wish) {}
  Result<void> make_one();
  void drop_taken();

  UniqueFd directory_, notice_;
  const Store* store_;
  ReadyWish wish_;
  std::vector<Prepared> disks_;
};

}  // namespace umwelt::vdisk
