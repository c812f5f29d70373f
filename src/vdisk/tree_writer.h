// SPDX-License-Identifier: Apache-2.0
// Writes what an archive of somebody else's holds below one directory and never outside of it:
// every path is resolved by openat2(2) with that directory as root, as a process in the image
// would.
#pragma once

#include <sys/types.h>
#include <time.h>

#include <cstdint>
#include <map>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::vdisk {

struct TreeEntry {
  enum class Type { kFile, kDirectory, kSymlink, kHardLink, kCharacter, kBlock, kFifo };
  Type type = Type::kFile;
  std::string path;
  std::string target;  // of a symlink or a hard link
  mode_t mode = 0644;  // permissions alone
  uid_t uid = 0;
  gid_t gid = 0;
  timespec mtime{};
  dev_t device = 0;
  std::uint64_t size_bytes = 0;  // of a file
  std::vector<std::pair<std::string, std::string>> xattrs;
};

// Not thread-safe; nobody else writes to the directory. Errors with code 0 are whole sentences that
// name the entry.
class TreeWriter {
 public:
  static constexpr std::uint64_t kMaxFileBytes = 1ULL << 40, kMaxEntries = 20'000'000;
  static constexpr std::size_t kMaxDepth = 250, kMaxPathBytes = 3500;
  static constexpr std::uint64_t kSpaceCheckBytes = 64ULL << 20;  // between two looks at the space
  static constexpr std::uint64_t kMaxNotedBytes = 1ULL << 30;     // of paths, in memory

  // `reserve_bytes` of the filesystem and a twentieth of its inodes stay free: ENOSPC before.
  static Result<TreeWriter> open(int directory, std::uint64_t reserve_bytes);

  // What is added from here on is the next layer (OCI image-spec, layer.md): its whiteouts remove
  // what earlier layers had.
  void begin_layer() {
    this_layer_.clear();
    opaque_.clear();
    layer_bytes_ = 0;
  }

  // Makes the entry, in place of what has its name. For a file: open for writing, still empty;
  // write_at() and finish_file() follow. A whiteout and a socket make nothing.
  Result<UniqueFd> add(const TreeEntry& entry);
  Result<void> write_at(int file, const TreeEntry& entry, const void* data, std::size_t size,
                        std::uint64_t offset);
  Result<void> finish_file(int file, const TreeEntry& entry);

  // Times of directories, which change while something is written into them.
  Result<void> finish();

  std::uint64_t entries() const { return entries_; }
  std::uint64_t content_bytes() const { return content_bytes_; }

 private:
  TreeWriter(UniqueFd root, std::string root_path, std::uint64_t reserve_bytes)
      : root_(std::move(root)), root_path_(std::move(root_path)), reserve_bytes_(reserve_bytes) {}

  Result<void> check_space();
  void note(const std::string& path);
  void note_time(const std::string& directory, const timespec& time);
  Result<int> open_parent(const std::vector<std::string>& parts, bool make);
  Result<void> check_depth(int directory, const std::string& path) const;
  Result<void> white_out(int parent, const std::string& directory, const std::string& name);
  Result<void> make(int parent, const std::string& name, const TreeEntry& entry);
  Result<void> link(int parent, const std::string& name, const TreeEntry& entry);
  Result<void> replace(int parent, const std::string& name, const TreeEntry& entry, bool& kept);

  UniqueFd root_;
  std::string root_path_;
  std::uint64_t reserve_bytes_ = 0;
  std::uint64_t entries_ = 0, content_bytes_ = 0, unchecked_bytes_ = 0;
  std::string parent_path_;  // that parent_ is open on
  UniqueFd parent_;
  std::unordered_set<std::string> this_layer_;
  std::unordered_set<ino_t> opaque_;  // directories that this layer has made opaque
  std::map<std::string, timespec> directory_times_;
  std::uint64_t layer_bytes_ = 0, times_bytes_ = 0;  // of memory, in these three
};

// "./a//b/" as {"a", "b"}. An Error (code 0) for an absolute path, "..", and what is too long.
Result<std::vector<std::string>> split_path(const std::string& path);

// Removes `name` in the directory and all below it; what is not there is no error.
Result<void> remove_below(int directory, const std::string& name);

}  // namespace umwelt::vdisk
