// SPDX-License-Identifier: Apache-2.0
#include "cgroup/hugetlb.h"

#include <algorithm>

#include "base/file.h"
#include "base/parse.h"
#include "cgroup/limits.h"
#include "cgroup/parse.h"

namespace umwelt::cgroup {

std::vector<std::uint64_t> read_huge_page_sizes(const std::string& root) {
  std::vector<std::uint64_t> sizes;
  const auto names = read_names_at(AT_FDCWD, root + "/sys/kernel/mm/hugepages");
  if (!names) return sizes;
  for (const std::string& name : *names)
    if (const auto bytes = parse_huge_page_directory(name)) sizes.push_back(*bytes);
  std::sort(sizes.begin(), sizes.end());
  return sizes;
}

std::string hugetlb_file(std::uint64_t page_bytes, bool usage, bool v2) {
  constexpr std::uint64_t kMib = 1U << 20, kGib = 1U << 30;
  std::string file = "hugetlb.";
  if (page_bytes >= kGib)
    file += std::to_string(page_bytes / kGib) + "GB.";
  else if (page_bytes >= kMib)
    file += std::to_string(page_bytes / kMib) + "MB.";
  else
    file += std::to_string(page_bytes / 1024) + "KB.";
  if (v2) return file + (usage ? "current" : "max");
  return file + (usage ? "usage_in_bytes" : "limit_in_bytes");
}

Result<HugetlbLimits> read_hugetlb_limits(const Directory& directory,
                                          const std::vector<std::uint64_t>& page_sizes,
                                          std::string& buffer) {
  HugetlbLimits found;
  for (const std::uint64_t page_bytes : page_sizes) {
    const std::string file = hugetlb_file(page_bytes, false, directory.v2());
    const SmallestLimit limit = UMWELT_TRY(read_smallest(directory, file, buffer));
    if (limit.max) found.limits.push_back({page_bytes, *limit.max});
    found.levels.push_back(limit.level);
  }
  return found;
}

HugetlbReader::HugetlbReader(const Directory* directory,
                             const std::vector<std::uint64_t>& page_sizes)
    : directory_(directory) {
  for (const std::uint64_t page_bytes : page_sizes)
    usage_.push_back({page_bytes, 0, open(page_bytes, 0)});
}

HeldFile HugetlbReader::open(std::uint64_t page_bytes, unsigned level) const {
  return HeldFile(directory_, level, hugetlb_file(page_bytes, true, directory_->v2()));
}

void HugetlbReader::refresh(const std::vector<unsigned>& levels) {
  for (std::size_t i = 0; i < usage_.size(); ++i) {
    Usage& usage = usage_[i];
    if (levels[i] != usage.level) {
      usage.level = levels[i];
      usage.file = open(usage.page_bytes, usage.level);
    }
    usage.file.refresh();
  }
}

Result<std::vector<HugetlbUsage>> HugetlbReader::read(std::string& buffer) {
  std::vector<HugetlbUsage> usage;
  for (auto& [page_bytes, level, file] : usage_) {
    const auto text = UMWELT_TRY(file.read(buffer));
    if (!text) continue;
    const auto bytes = parse_u64(trim(*text));
    if (!bytes) return fail(EINVAL, "parse a huge page usage");
    usage.push_back({page_bytes, *bytes});
  }
  return usage;
}

}  // namespace umwelt::cgroup
