// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "cgroup/directory.h"
#include "cgroup/state.h"

namespace umwelt::cgroup {

// The memory use of a cgroup and of the level that limits it, in at most 4 syscalls a read, 5
// where an ancestor limits the swap. Not thread-safe.
class MemoryReader {
 public:
  // `directory` outlives the reader.
  explicit MemoryReader(const Directory* directory);

  // The levels that set the limits (MemoryLimit). Opens what is not open yet.
  Result<void> refresh(unsigned level, unsigned swap_level);

  // Where there is no memory controller, every value is 0.
  Result<Memory> read(std::string& buffer);
  Result<MemoryEvents> read_events(std::string& buffer);

 private:
  Result<void> read_limiting(std::string& buffer, Memory& memory);
  Result<void> read_limiting_swap(std::string& buffer, Memory& memory);

  const Directory* directory_;
  HeldFile usage_, stat_, swap_or_kernel_;
  unsigned limit_level_ = 0, swap_level_ = 0;
  HeldFile limit_usage_, limit_stat_, limit_swap_;
};

}  // namespace umwelt::cgroup
