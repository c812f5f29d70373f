// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::cgroup {

// One cgroup in one hierarchy, held by a descriptor, with its ancestors up to the hierarchy's root.
// `level` counts upwards: 0 is the cgroup itself, depth() the root. Ancestors are reached with ".."
// from the held descriptor: a cgroup with children can't be removed. Const calls are thread-safe.
//
// Looking for a file may take the directory's lock, which a container can hold for ever: always for
// one that is not there. So what is absent in the cgroup itself is looked for again only when it
// has got other controllers; and whoever must not wait takes files with take(), and has
// open_wanted() called in a thread that may.
class Directory {
 public:
  // `mount_point` is where the hierarchy is, `path` the cgroup below it (check_path() holds).
  static Result<std::unique_ptr<const Directory>> open(const std::string& mount_point,
                                                       const std::string& path, bool v2);

  bool v2() const { return v2_; }
  int fd() const { return fd_.get(); }
  unsigned depth() const { return depth_; }

  // The text of a file at a level; nullopt when there is none. The view points into `buffer`.
  Result<std::optional<std::string_view>> read(unsigned level, std::string_view file,
                                               std::string& buffer) const;
  // The same file opened for reading; an empty handle when there is none.
  Result<UniqueFd> open_file(unsigned level, std::string_view file) const;
  // The same without looking for it: an empty handle until open_wanted() has opened it.
  UniqueFd take(unsigned level, std::string_view file) const;
  // Opens what take() was asked for in vain since the last call. What nobody has taken by then is
  // closed.
  Result<void> open_wanted() const;
  // Whether take() was asked for what the last open_wanted() has not looked for.
  bool wants_more() const;
  // Absolute; "" when there is no such file.
  std::string existing_path(unsigned level, std::string_view file) const;

  // ENODEV once the cgroup has been removed, also when another one has its name now. In a removed
  // directory every file seems to be absent, so ask this after files that may be.
  Result<void> check_alive(std::string& buffer) const;

 private:
  Directory() = default;
  std::string relative(unsigned level, std::string_view file) const;
  std::string controllers() const;
  bool known_absent(std::string_view file) const;
  bool files_came(std::string_view file, std::string_view controllers) const;
  void note_absent(std::string_view file, std::string controllers) const;

  using Name = std::pair<unsigned, std::string>;  // the level and the file

  std::string mount_point_, path_;
  bool v2_ = false;
  unsigned depth_ = 0;
  UniqueFd fd_;
  UniqueFd alive_;  // a file that every cgroup has; empty in recorded trees

  mutable std::mutex absent_mutex_;  // guards what follows
  mutable std::set<std::string, std::less<>> absent_;
  mutable std::string absent_with_;  // the controllers

  mutable std::mutex wanted_mutex_;  // guards what follows
  mutable std::set<Name> wanted_, looked_for_;
  mutable std::map<Name, UniqueFd> opened_;
};

// A file of a cgroup that is read often: one pread(2) a read. Not thread-safe.
class HeldFile {
 public:
  HeldFile() = default;
  HeldFile(const Directory* directory, unsigned level, std::string name);

  // nullopt when there is no such file as of the last refresh(). ENODEV once the cgroup is gone.
  Result<std::optional<std::string_view>> read(std::string& buffer);

  // Takes the file if it is there by now: on v2 a controller may be enabled late.
  void refresh();

 private:
  const Directory* directory_ = nullptr;
  unsigned level_ = 0;
  std::string name_;
  UniqueFd fd_;
};

}  // namespace umwelt::cgroup
