// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <ctime>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"

namespace umwelt::fusefs {

class Snapshots;

using Text = std::shared_ptr<const std::string>;

// One content of a file that the kernel keeps in its page cache. The kernel drops the pages of a
// file whose modification time it finds changed, so every other text has another one.
struct Version {
  Text text;
  timespec mtime{};
};

// The versions of the files of the config connection. What a READ is answered from is what the
// last GETATTR or LOOKUP of that node described, so that a size and a text always belong together.
// Thread-safe; no lock is held while a text is made.
class ConfigFiles {
 public:
  // The text as it is now.
  using Render = std::function<Result<std::string>()>;

  // How long a text is good for.
  struct Validity {
    std::uint64_t generation = 0;  // as long as the container's generation is this
    std::uint64_t max_age_ns = 0;  // and this old at most; 0: any age
  };

  // Where the last description of each node outlives this process. From before the first use, and
  // longer than this. A node that only an earlier process has described stays described like that
  // until recall_all() and then outdate().
  void set_descriptions(Snapshots* descriptions) { outliving_ = descriptions; }

  // Takes over how an earlier process described these nodes of a container, and no others later.
  void recall_all(std::uint64_t container, std::uint64_t generation,
                  const std::vector<std::uint64_t>& nodes);

  // For GETATTR and LOOKUP: makes the text again unless the last one is still valid.
  Result<Version> describe(std::uint64_t node, const Validity& validity, const Render& render);
  // For READ: the text last described; described now, if nobody has it any more.
  Result<Text> content(std::uint64_t node, const Validity& validity, const Render& render);

  // Says that `text` is what the node shows under `generation`. True when it is what it showed
  // before, which then holds on; false when it is something else, which is left to describe().
  bool confirm(std::uint64_t node, std::uint64_t generation, const std::string& text);

  // Has the node described again when that is next asked for; READ is answered as before until
  // then.
  void outdate(std::uint64_t node);
  // Whether a READ was answered since outdate().
  bool was_read(std::uint64_t node);

  // The nodes of a container that were described.
  std::vector<std::uint64_t> nodes_of(std::uint64_t container);
  // Forgets the nodes of a container that is gone.
  void forget_container(std::uint64_t container);
  std::size_t size();  // how many nodes' texts are held

 private:
  struct Record {
    Version version;
    std::uint64_t generation = 0;
    std::uint64_t made_ns = 0;  // CLOCK_MONOTONIC
    bool read = false;
  };
  struct Shard {
    std::mutex mutex;
    std::unordered_map<std::uint64_t, Record> records;
  };
  static constexpr std::size_t kShards = 16;
  static constexpr std::size_t kMaxRecords = 4096;  // a shard; beyond it any is forgotten

  Shard& shard(std::uint64_t node) { return shards_[(node * 0x9e3779b97f4a7c15U) >> 60]; }

  // The record, if need be an earlier process's; the shard's lock is held.
  Record* find(Shard& shard, std::uint64_t node, const Validity& validity);

  Snapshots* outliving_ = nullptr;
  std::mutex recalled_mutex_;         // taken after a shard's
  std::set<std::uint64_t> recalled_;  // containers
  std::array<Shard, kShards> shards_;
};

// CLOCK_MONOTONIC in ns.
std::uint64_t monotonic_ns();

}  // namespace umwelt::fusefs
