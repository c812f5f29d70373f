// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cgroup/directory.h"
#include "cgroup/state.h"

namespace umwelt::cgroup {

// The sizes of huge pages that the machine has, ascending. Source: /sys/kernel/mm/hugepages below
// `root` ("" is the running machine).
std::vector<std::uint64_t> read_huge_page_sizes(const std::string& root);

// "hugetlb.2MB.max", "hugetlb.1GB.limit_in_bytes" (mem_fmt in mm/hugetlb_cgroup.c)
std::string hugetlb_file(std::uint64_t page_bytes, bool usage, bool v2);

// The smallest limit of each size over a cgroup and its ancestors; sizes without one are left out.
struct HugetlbLimits {
  std::vector<HugetlbLimit> limits;
  std::vector<unsigned> levels;  // of each of the sizes that were asked for, as in MemoryLimit
};
Result<HugetlbLimits> read_hugetlb_limits(const Directory& directory,
                                          const std::vector<std::uint64_t>& page_sizes,
                                          std::string& buffer);

// The use of the cgroup that sets the limit, with its descendants: one syscall a size. Not
// thread-safe.
class HugetlbReader {
 public:
  // `directory` outlives the reader.
  HugetlbReader(const Directory* directory, const std::vector<std::uint64_t>& page_sizes);

  // Takes the files that are there by now (HeldFile::refresh()). `levels`: of
  // read_hugetlb_limits().
  void refresh(const std::vector<unsigned>& levels);

  Result<std::vector<HugetlbUsage>> read(std::string& buffer);

 private:
  struct Usage {
    std::uint64_t page_bytes = 0;
    unsigned level = 0;
    HeldFile file;
  };
  HeldFile open(std::uint64_t page_bytes, unsigned level) const;

  const Directory* directory_;
  std::vector<Usage> usage_;  // one a size
};

}  // namespace umwelt::cgroup
