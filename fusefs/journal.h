// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::fusefs {

// Shared memory that outlives the server: the requests that it has received and not answered yet,
// what its successor must know to go on, and the snapshots of opened files (snapshots.h).
//
// The kernel copies a request straight into a slot, by the read(2) of /dev/fuse, and a slot is only
// used again when its request was answered. So there is no moment at which a killed server leaves a
// request that its successor does not find. Thread-safe; one process uses it at a time.
class Journal {
 public:
  // What a request takes at most, with `max_write` as connection.cc sets it.
  static constexpr std::size_t kSlotBytes = 136U << 10;
  static constexpr unsigned kSlots = 256;
  static constexpr unsigned kConnections = 3;

  // Who received a request: its answer must go to the same descriptor.
  struct Owner {
    std::uint16_t connection = 0;  // index
    std::uint16_t worker = 0;      // index of the descriptor
  };

  // The place of one request, from before it is received until it is answered. Given back when
  // destroyed.
  class Slot {
   public:
    Slot(Journal& journal, unsigned index) : journal_(&journal), index_(index) {}
    Slot(Slot&& other) noexcept;
    Slot& operator=(Slot&& other) noexcept;
    ~Slot();

    char* memory() const;
    // Forgets the request, which is answered. To be called before each receive.
    void clear() const;

   private:
    friend class Journal;
    Journal* journal_;
    unsigned index_;
  };

  // A request that another process left unanswered, still in its slot.
  struct Left {
    Owner owner;
    std::size_t size;
    Slot slot;
  };

  // A new, empty one: a memfd.
  static Result<UniqueFd> create();
  // EPROTO when it is of another layout, made by another version of this program.
  static Result<std::unique_ptr<Journal>> map(int fd);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // The FUSE_INIT request of each connection. Set once; at most 512 bytes.
  Result<void> set_init_request(unsigned connection, const std::string& bytes);
  std::string init_request(unsigned connection) const;

  // nullopt when all are in use.
  std::optional<Slot> take(Owner owner);
  // To be called before the first take().
  std::vector<Left> left();

  // How many processes in a row began to answer what was left and did not come to the end of it.
  unsigned begin_replay();
  void end_replay();

  // Whether the shared tree is mounted.
  std::atomic<std::uint32_t>& shared_tree_mounted();

  // Whether containers that an earlier daemon served, of which nothing is left, have these mounts.
  std::atomic<std::uint32_t>& containers_attached();

  // For Snapshots: of opened files, by their handle, and of nodes.
  void* snapshot_memory() const;
  void* description_memory() const;

 private:
  struct Layout;
  explicit Journal(Layout* layout) : layout_(layout) {}

  Layout* layout_;
  std::mutex mutex_;  // guards free_
  std::vector<unsigned> free_;
  bool free_known_ = false;
};

}  // namespace umwelt::fusefs
