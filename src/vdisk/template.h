// SPDX-License-Identifier: Apache-2.0
// An empty ext4 of one capacity, packed: what mkfs.ext4 wrote (about 200 KiB for 10 GiB) and where
// it belongs. Writing it into a sparse file makes a filesystem without running anything.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "vdisk/ext4.h"

namespace umwelt::vdisk {

enum class Class {
  kThin,        // space is taken when written and given back when deleted
  kGuaranteed,  // all space is taken at once
  kScratch,     // as thin, with nothing kept after a crash
};
const char* name_of(Class c);  // "thin", "guaranteed", "scratch"

inline constexpr std::uint64_t kMinCapacityBytes = 32ULL << 20, kMaxCapacityBytes = 64ULL << 40;

struct Template {
  std::uint64_t capacity_bytes = 0;
  std::vector<Extent> extents;  // what `data` holds, in its order; ascending
  std::string data;
  std::vector<Extent> metadata;  // bitmaps, inode tables and journal: what must never lack space
  std::uint64_t free_bytes = 0;  // for files

  std::uint64_t metadata_bytes() const;
};

// The inode tables and bitmaps of such a filesystem, to within a group: what growing adds, and no
// more than what a template has.
std::uint64_t least_metadata_bytes(std::uint64_t capacity_bytes);

// Runs mkfs.ext4 on the file `path` with the features that vdisks have; `source` is a directory
// whose content goes in. `tick` is called about five times a second.
Result<void> make_ext4(const std::string& path, std::uint64_t capacity_bytes, Class c,
                       const std::string& source, const std::function<void()>& tick = {});

// Makes one by running mkfs.ext4: the filesystem holds the empty directories upper/ and work/. One
// of many terabytes takes gigabytes of memory.
// A scratch one has no journal. EINVAL with a sentence for a capacity out of bounds.
Result<Template> make_template(std::uint64_t capacity_bytes, Class c);

std::string serialize(const Template& t);
// EUCLEAN: the text was not made by serialize(), or is damaged.
Result<Template> deserialize(const std::string& bytes);

// The templates of one state directory, each made once and kept in memory and on disk. A template
// that another mkfs.ext4 made is not used. Thread-safe; several processes may share a directory.
class Templates {
 public:
  explicit Templates(std::string directory) : directory_(std::move(directory)) {}

  // `capacity_bytes` is a multiple of kBlockBytes.
  Result<std::shared_ptr<const Template>> get(std::uint64_t capacity_bytes, Class c);

  // Removes what nobody will use: of another mkfs.ext4, half written, or not read for a month.
  Result<void> tidy() const;

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<const Template> value;
  };
  static Result<std::string> ending();  // of the names of those that this mkfs.ext4 made

  std::string directory_;
  std::mutex mutex_;  // guards everything below, also while a template is made
  std::vector<Entry> entries_;
};

}  // namespace umwelt::vdisk
