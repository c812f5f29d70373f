// SPDX-License-Identifier: Apache-2.0
#include "cgroup/memory.h"

#include <algorithm>

#include "base/parse.h"
#include "cgroup/parse.h"

namespace umwelt::cgroup {
namespace {

Result<std::optional<std::uint64_t>> read_number(HeldFile& file, std::string& buffer) {
  const auto text = UMWELT_TRY(file.read(buffer));
  if (!text) return std::optional<std::uint64_t>();
  const auto value = parse_u64(trim(*text));
  if (!value) return fail(EINVAL, "parse a memory usage");
  return value;
}

Result<std::optional<MemoryStatV1>> read_stat(HeldFile& file, bool v2, std::string& buffer) {
  const auto text = UMWELT_TRY(file.read(buffer));
  if (!text) return std::optional<MemoryStatV1>();
  if (!v2) return std::optional(UMWELT_TRY(parse_memory_stat_v1(*text)));
  return std::optional(MemoryStatV1{UMWELT_TRY(parse_memory_stat_v2(*text)), std::nullopt});
}

// What is charged, by the counts of memory.stat. Pages that are charged ahead, up to 64 a CPU, are
// not in it, nor is swap cache that no task has mapped: what is mapped is in anon, and a cgroup's
// file, unlike the machine's, has none of it (add_to_swap_cache() in mm/swap_state.c).
std::uint64_t charged(const MemoryStat& stat) {
  std::uint64_t bytes = saturating_add(stat.anon, stat.file);
  if (stat.kernel) {
    bytes = saturating_add(bytes, *stat.kernel);
  } else {
    for (const auto& part : {stat.kernel_stack, stat.pagetables, stat.sec_pagetables, stat.percpu,
                             stat.vmalloc, stat.slab_reclaimable, stat.slab_unreclaimable})
      bytes = saturating_add(bytes, part.value_or(0));
  }
  return saturating_add(bytes, stat.sock.value_or(0));
}

std::uint64_t reclaimable_bytes(const MemoryStat& stat) {
  return saturating_add(saturating_add(stat.inactive_file, stat.active_file),
                        stat.slab_reclaimable.value_or(0));
}

}  // namespace

MemoryReader::MemoryReader(const Directory* directory)
    : directory_(directory),
      usage_(directory, 0, directory->v2() ? "memory.current" : "memory.usage_in_bytes"),
      stat_(directory, 0, "memory.stat"),
      swap_or_kernel_(directory, 0,
                      directory->v2() ? "memory.swap.current" : "memory.kmem.usage_in_bytes") {}

void MemoryReader::refresh(const MemoryLimit& limit) {
  const char* const usage = directory_->v2() ? "memory.current" : "memory.usage_in_bytes";
  const auto of_level = [&](unsigned level, const char* file) {
    return level > 0 ? HeldFile(directory_, level, file) : HeldFile();
  };
  if (limit.level != limit_.level) {
    limit_usage_ = of_level(limit.level, usage);
    limit_stat_ = of_level(limit.level, "memory.stat");
  }
  if (limit.swap_level != limit_.swap_level)
    limit_swap_ =
        of_level(limit.swap_level, directory_->v2() ? "memory.swap.current" : "memory.stat");
  if (limit.above != limit_.above) {
    above_.clear();
    for (const MemoryLimit::Above& level : limit.above)
      above_.push_back(
          {level.max_bytes, of_level(level.level, usage), of_level(level.level, "memory.stat")});
  }
  limit_ = limit;
  for (HeldFile* file :
       {&usage_, &stat_, &swap_or_kernel_, &limit_usage_, &limit_swap_, &limit_stat_})
    file->refresh();
  for (Above& level : above_) {
    level.usage.refresh();
    level.stat.refresh();
  }
}

Result<Memory> MemoryReader::read(bool swap, std::string& buffer) {
  const bool v2 = directory_->v2();
  Memory memory;
  const auto stat = UMWELT_TRY(read_stat(stat_, v2, buffer));
  if (stat) memory.stat = stat->stat;
  if (!v2) {
    // All kernel memory of a v1 cgroup is one figure; most of it is slab.
    memory.stat.kernel = memory.stat.slab_unreclaimable =
        UMWELT_TRY(read_number(swap_or_kernel_, buffer));
    memory.swap_usage_bytes = stat ? stat->swap_bytes.value_or(0) : 0;
  } else if (swap || (swap_limited() && limit_.swap_level == 0)) {
    memory.swap_usage_bytes = UMWELT_TRY(read_number(swap_or_kernel_, buffer)).value_or(0);
  }
  memory.limit_swap_usage_bytes = memory.swap_usage_bytes;
  if (swap_limited() && limit_.swap_level > 0) UMWELT_CHECK(read_limiting_swap(buffer, memory));
  if (limit_.level > 0) {
    // Two more files are read below; leave one out here.
    memory.usage_bytes = charged(memory.stat);
    UMWELT_CHECK(read_limiting(buffer, memory));
    UMWELT_CHECK(read_above(buffer, memory));
    count_excess_swap(memory);
    return memory;
  }
  // The root of v2 has no memory.current.
  const auto usage = UMWELT_TRY(read_number(usage_, buffer));
  memory.usage_bytes = usage.value_or(charged(memory.stat));
  memory.limit_usage_bytes = memory.usage_bytes;
  memory.limit_inactive_file = memory.stat.inactive_file;
  memory.limit_active_file = memory.stat.active_file;
  memory.limit_slab_reclaimable = memory.stat.slab_reclaimable.value_or(0);
  UMWELT_CHECK(read_above(buffer, memory));
  count_excess_swap(memory);
  return memory;
}

Result<MemoryEvents> MemoryReader::read_events(std::string& buffer) {
  const auto text = UMWELT_TRY(stat_.read(buffer));
  return text ? parse_memory_events(*text, directory_->v2()) : MemoryEvents();
}

Result<void> MemoryReader::read_limiting_swap(std::string& buffer, Memory& memory) {
  if (directory_->v2()) {
    const auto usage = UMWELT_TRY(read_number(limit_swap_, buffer));
    if (usage) memory.limit_swap_usage_bytes = *usage;
  } else if (const auto stat = UMWELT_TRY(read_stat(limit_swap_, false, buffer))) {
    memory.limit_swap_usage_bytes = stat->swap_bytes.value_or(memory.swap_usage_bytes);
  }
  return {};
}

Result<void> MemoryReader::read_limiting(std::string& buffer, Memory& memory) {
  const auto stat = UMWELT_TRY(read_stat(limit_stat_, directory_->v2(), buffer));
  const auto usage = UMWELT_TRY(read_number(limit_usage_, buffer));
  memory.limit_usage_bytes = usage.value_or(memory.usage_bytes);
  if (!stat) return {};
  memory.limit_inactive_file = stat->stat.inactive_file;
  memory.limit_active_file = stat->stat.active_file;
  memory.limit_slab_reclaimable = stat->stat.slab_reclaimable.value_or(0);
  return {};
}

// v1 limits memory and swap together: what is in swap beyond its part, as after the whole machine
// was short of memory, leaves less for memory. Not told of limits that two levels set.
void MemoryReader::count_excess_swap(Memory& memory) const {
  if (directory_->v2() || !limit_.max_bytes || !limit_.swap_max_bytes ||
      limit_.level != limit_.swap_level)
    return;
  const std::uint64_t excess =
      saturating_sub(memory.limit_swap_usage_bytes, *limit_.swap_max_bytes);
  if (excess == 0) return;
  const std::uint64_t reclaimable =
      saturating_add(memory.limit_inactive_file, memory.limit_active_file);
  const std::uint64_t held = saturating_sub(memory.limit_usage_bytes, reclaimable);
  memory.above_available_bytes =
      std::min(memory.above_available_bytes,
               saturating_sub(*limit_.max_bytes, saturating_add(held, excess)));
}

// Of one that has more left than the level with the smallest limit could have, memory.stat, the
// slower file, is not read.
Result<void> MemoryReader::read_above(std::string& buffer, Memory& memory) {
  for (Above& level : above_) {
    const auto usage = UMWELT_TRY(read_number(level.usage, buffer));
    if (!usage) continue;
    const std::uint64_t unused = saturating_sub(level.max_bytes, *usage);
    if (unused >= std::min(*limit_.max_bytes, memory.above_available_bytes)) continue;
    const auto stat = UMWELT_TRY(read_stat(level.stat, directory_->v2(), buffer));
    const std::uint64_t reclaimable = stat ? reclaimable_bytes(stat->stat) : 0;
    memory.above_available_bytes =
        std::min({memory.above_available_bytes, level.max_bytes,
                  saturating_add(unused, std::min(*usage, reclaimable))});
  }
  return {};
}

}  // namespace umwelt::cgroup
