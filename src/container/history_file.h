// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "container/history.h"

namespace umwelt::container {

// The history of a container in a file that this process has mapped, so that no counter goes back
// when the daemon is killed, at whatever moment: the last history that store() was given whole is
// the one that load() finds. Costs no syscall but for the first store(), and when the history has
// become longer. Not thread-safe; one process stores at a time. Not meant to outlive the machine's
// boot, nor a change of History.
class HistoryFile {
 public:
  // Opens nothing.
  explicit HistoryFile(std::string path) : path_(std::move(path)) {}
  ~HistoryFile();
  HistoryFile(const HistoryFile&) = delete;
  HistoryFile& operator=(const HistoryFile&) = delete;

  const std::string& path() const { return path_; }

  // nullopt where there is none; EINVAL for another file.
  Result<std::optional<History>> load() const;
  // What the kernel says where no file can be made or mapped (ENOSPC, EMFILE, ...); then the next
  // store() tries again.
  Result<void> store(const History& history);

  static void remove(const std::string& path);

 private:
  Result<void> make(const History& history, std::size_t size);
  void unmap();
  std::uint64_t* area(unsigned index) const;

  const std::string path_;
  std::uint64_t* memory_ = nullptr;
  std::size_t bytes_ = 0;
  std::size_t capacity_ = 0;  // of one of the two areas, in words
};

}  // namespace umwelt::container
