// SPDX-License-Identifier: Apache-2.0
// The directory that an import unpacks to.
#pragma once

#include <string>
#include <string_view>

#include "base/child_process.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::vdisk {

// Names of such directories begin with it; each is locked (flock(2)) as long as somebody needs it.
constexpr std::string_view kStaging = ".staging-";

// Removed by a process of its own when the object is gone, or when this process has ended, however
// that happens. Not thread-safe; the caller is single-threaded.
class Staging {
 public:
  // In the directory open as `directory`, whose path is `path`.
  static Result<Staging> make(int directory, const std::string& path);
  Staging(Staging&&) = default;
  Staging& operator=(Staging&&) = delete;
  ~Staging();

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }

 private:
  Staging() = default;

  std::string path_;
  UniqueFd fd_, link_;
  ChildProcess remover_;
};

}  // namespace umwelt::vdisk
