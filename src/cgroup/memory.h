// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cgroup/directory.h"
#include "cgroup/limits.h"
#include "cgroup/state.h"

namespace umwelt::cgroup {

// The memory use of a cgroup and of the level that limits it, in 2 syscalls a read (v1: 3), one
// more where an ancestor limits the memory, one more where swap is limited (v1: by an ancestor),
// and one more for each ancestor that limits the memory further above, two where it is nearly full.
// Not thread-safe.
class MemoryReader {
 public:
  // `directory` outlives the reader.
  explicit MemoryReader(const Directory* directory);

  // Opens what is not open yet, and what tells the use of the levels that set the limits.
  void refresh(const MemoryLimit& limit);

  // Where there is no memory controller, every value is 0. `swap` asks for swap_usage_bytes.
  Result<Memory> read(bool swap, std::string& buffer);
  Result<MemoryEvents> read_events(std::string& buffer);

 private:
  // On v1 swap that is not allowed any more counts, too.
  bool swap_limited() const {
    return limit_.swap_max_bytes && (!directory_->v2() || *limit_.swap_max_bytes > 0);
  }
  Result<void> read_limiting(std::string& buffer, Memory& memory);
  Result<void> read_limiting_swap(std::string& buffer, Memory& memory);
  Result<void> read_above(std::string& buffer, Memory& memory);
  void count_excess_swap(Memory& memory) const;

  struct Above {
    std::uint64_t max_bytes;
    HeldFile usage, stat;
  };

  const Directory* directory_;
  HeldFile usage_, stat_, swap_or_kernel_;
  HeldFile limit_usage_, limit_stat_, limit_swap_;
  MemoryLimit limit_;  // as of the last refresh()
  std::vector<Above> above_;
};

}  // namespace umwelt::cgroup
