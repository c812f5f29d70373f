// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "base/result.h"
#include "fusefs/config_files.h"
#include "fusefs/snapshots.h"

namespace umwelt::fusefs {

// The snapshots of the files of the live connection: the text is made when a read starts at offset
// 0 and later reads of the same open file get their part of it; a rewind makes it again, as
// seq_file does. Thread-safe.
class LiveFiles {
 public:
  using Render = std::function<Result<std::string>()>;

  static constexpr std::uint64_t kShareNs = 5'000'000;
  // What a text is of: reads of the same subject within share_ns share one. It is made under a lock
  // of the subject, so that no reader gets an older text than another one got before.
  struct Subject {
    std::weak_ptr<const void> container;
    std::uint64_t generation = 0;  // of the container's limits
    std::uint64_t node = 0;
    std::uint64_t share_ns = kShareNs;
  };

  LiveFiles();

  // Where snapshots outlive this process; from before the first read, and longer than this.
  void set_snapshots(Snapshots* snapshots) { outliving_ = snapshots; }

  // The number of a newly opened file. Another process's numbers differ.
  std::uint64_t open() { return next_handle_.fetch_add(1, std::memory_order_relaxed); }
  void release(std::uint64_t handle);

  // The text that a read of `handle` behind offset 0 gets its part of. Where this process has no
  // snapshot of it (there are bounds on how many and how large, beyond which the files opened first
  // lose theirs), it is the one that outlived its server; null when there is none.
  Text snapshot(std::uint64_t handle);
  // At offset 0, and where there is none. `request` is the kernel's number of it: a server that was
  // killed may have answered it, with a text that a program now reads on in, so that the next one
  // gives the same text again; 0: not known.
  Result<Text> take_snapshot(std::uint64_t handle, const Subject& subject, const Render& render,
                             std::uint64_t request = 0);
  // Of the text that was made last, however long ago; made now if that is not known any more.
  Result<std::size_t> size(const Subject& subject, const Render& render);
  std::size_t bytes();  // of all snapshots; one that several share counts for each

 private:
  static constexpr std::size_t kShards = 16;
  static constexpr std::size_t kMaxSnapshots = 4096;  // a shard
  static constexpr std::size_t kMaxBytes = 4U << 20;  // a shard, at least one snapshot
  static constexpr std::size_t kShared = 256;

  struct Shard {
    std::mutex mutex;
    std::map<std::uint64_t, Text> snapshots;  // by handle, hence by time of opening
    std::size_t bytes = 0;
  };
  struct Shared {
    std::mutex mutex;
    Subject subject;
    Text text;
    std::uint64_t made_ns = 0;
  };

  Shared& shared(const Subject& subject) {
    return shared_[(subject.node * 0x9e3779b97f4a7c15U) >> 56];
  }
  Text outlived(std::uint64_t handle, std::optional<std::string> text);
  Result<Text> shared_text(const Subject& subject, const Render& render);
  void keep(std::uint64_t handle, const Text& text);

  Snapshots* outliving_ = nullptr;
  std::atomic<std::uint64_t> next_handle_;
  std::array<Shard, kShards> shards_;
  std::array<Shared, kShared> shared_;
};

}  // namespace umwelt::fusefs
