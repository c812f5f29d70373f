// SPDX-License-Identifier: Apache-2.0
// /proc/vmstat (mm/vmstat.c). Gauges are those of meminfo in other units; counters are the cgroup's
// where it has one of the same name.
#include "view/vmstat.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/parse.h"
#include "view/disks.h"
#include "view/files.h"

namespace umwelt::view {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kHugePage = 2U << 20;  // a transparent one, PMD_SIZE

using Value = std::uint64_t (*)(const Resources& r);

template <std::uint64_t cgroup::MemoryStat::*Field, std::uint64_t Unit = kPage>
std::uint64_t of(const Resources& r) {
  return r.memory.stat.*Field / Unit;
}
template <std::optional<std::uint64_t> cgroup::MemoryStat::*Field, std::uint64_t Unit = kPage>
std::uint64_t of(const Resources& r) {
  return (r.memory.stat.*Field).value_or(0) / Unit;
}

std::uint64_t dirty_and_writeback(const Resources& r) {
  return (r.memory.stat.file_dirty + r.memory.stat.file_writeback) / kPage;
}
// The kernel's count has the swap cache, /proc/meminfo's Cached does not.
std::uint64_t file_pages(const Resources& r) {
  return (r.memory.stat.file + r.memory.stat.swapcached) / kPage;
}

// The devices of /proc/diskstats. What goes through a disk of its own is accounted once more on the
// device below it, and v1 accounts nobody what is written back later.
template <std::uint64_t cgroup::DeviceIo::*Field, std::size_t Column>
std::uint64_t transferred_kib(const Resources& r) {
  constexpr std::uint64_t kSectorsPerKib = 2;
  if (r.identity.disk) {
    const std::optional<DiskCounts> counts = counts_of_own_disk(r);
    return counts && Column < counts->size() ? (*counts)[Column] / kSectorsPerKib : 0;
  }
  std::uint64_t bytes = 0;
  for (const cgroup::DeviceIo& io : r.io) bytes = saturating_add(bytes, io.*Field);
  return bytes / 1024;
}

struct Row {
  std::string_view key;
  Value value;
};

using S = cgroup::MemoryStat;
// The host's where the container's memory is not limited, as in meminfo.
constexpr Row kGauges[] = {
    {"nr_free_pages", [](const Resources& r) { return r.memory.free / kPage; }},
    {"nr_zone_inactive_anon", of<&S::inactive_anon>},
    {"nr_zone_active_anon", of<&S::active_anon>},
    {"nr_zone_inactive_file", of<&S::inactive_file>},
    {"nr_zone_active_file", of<&S::active_file>},
    {"nr_zone_unevictable", of<&S::unevictable>},
    {"nr_zone_write_pending", dirty_and_writeback},
    {"nr_inactive_anon", of<&S::inactive_anon>},
    {"nr_active_anon", of<&S::active_anon>},
    {"nr_inactive_file", of<&S::inactive_file>},
    {"nr_active_file", of<&S::active_file>},
    {"nr_unevictable", of<&S::unevictable>},
    {"nr_slab_reclaimable", of<&S::slab_reclaimable>},
    {"nr_slab_unreclaimable", of<&S::slab_unreclaimable>},
    {"nr_anon_pages", of<&S::anon>},
    {"nr_mapped", of<&S::file_mapped>},
    {"nr_file_pages", file_pages},
    {"nr_dirty", of<&S::file_dirty>},
    {"nr_writeback", of<&S::file_writeback>},
    {"nr_shmem", of<&S::shmem>},
    {"nr_shmem_hugepages", of<&S::shmem_thp, kHugePage>},
    {"nr_file_hugepages", of<&S::file_thp, kHugePage>},
    {"nr_anon_transparent_hugepages", of<&S::anon_thp, kHugePage>},
    {"nr_kernel_stack", of<&S::kernel_stack, 1024>},
    {"nr_page_table_pages", of<&S::pagetables>},
    {"nr_sec_page_table_pages", of<&S::sec_pagetables>},
    {"nr_swapcached", of<&S::swapcached>},
};

// The container's always.
constexpr Row kOwn[] = {
    {"pgpgin", transferred_kib<&cgroup::DeviceIo::read_bytes, kSectorsRead>},
    {"pgpgout", transferred_kib<&cgroup::DeviceIo::written_bytes, kSectorsWritten>},
};

template <std::size_t N>
const Row* find(const Row (&rows)[N], std::string_view key) {
  const auto found = std::find_if(std::begin(rows), std::end(rows),
                                  [&](const Row& row) { return row.key == key; });
  return found == std::end(rows) ? nullptr : &*found;
}

std::uint64_t value_of(const Resources& r, std::string_view key, std::uint64_t host) {
  if (const Row* row = find(kOwn, key)) return row->value(r);
  // What is free is MemFree, also where that is the host's.
  if (const auto gauge = vmstat_gauge(r, key))
    return r.memory.limited || key == "nr_free_pages" ? *gauge : host;
  for (const auto& [name, count] : r.memory_events)
    if (name == key) return count;
  return 0;
}

}  // namespace

std::optional<std::uint64_t> vmstat_gauge(const Resources& r, std::string_view key) {
  const Row* row = find(kGauges, key);
  return row == nullptr ? std::nullopt : std::optional(row->value(r));
}

std::string render_vmstat(const Resources& r) {
  std::string text;
  if (!r.host.vmstat) return text;
  text.reserve(r.host.vmstat->size() * 32);
  for (const auto& [key, count] : *r.host.vmstat)
    fmt::format_to(std::back_inserter(text), "{} {}\n", key,
                   r.identity.limited ? value_of(r, key, count) : count);
  return text;
}

}  // namespace umwelt::view
