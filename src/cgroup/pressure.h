// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "cgroup/directory.h"
#include "cgroup/state.h"

namespace umwelt::cgroup {

// What tasks of a cgroup and its descendants waited for (Documentation/accounting/psi.rst). Only
// cgroup2 has it, also without any controller. One syscall a resource. Not thread-safe.
class PressureReader {
 public:
  // `directory` is of cgroup2 and outlives the reader.
  explicit PressureReader(const Directory* directory);

  // Takes the files that are there by now (HeldFile::refresh()).
  void refresh();

  Result<Pressure> read(std::string& buffer);

 private:
  HeldFile cpu_, memory_, io_, irq_;
};

// The file of one resource ("cpu", "memory", "io", "irq"), to write a trigger to and poll. ENOENT:
// the kernel has none; EINVAL: no such resource.
Result<UniqueFd> open_pressure(const Directory& directory, const std::string& resource);

}  // namespace umwelt::cgroup
