// SPDX-License-Identifier: Apache-2.0
#include "view/meminfo.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/parse.h"
#include "view/explain.h"
#include "view/files.h"

namespace umwelt::view {
namespace {

// Bytes of one line. `host` is the machine's own figure.
using Value = std::uint64_t (*)(const Resources& r, std::uint64_t host);

std::uint64_t host_figure(const Resources&, std::uint64_t host) { return host; }
std::uint64_t neutral(const Resources&, std::uint64_t) { return 0; }

template <std::uint64_t Memory::*Field>
std::uint64_t of(const Resources& r, std::uint64_t) {
  return r.memory.*Field;
}
template <std::uint64_t cgroup::MemoryStat::*Field>
std::uint64_t of(const Resources& r, std::uint64_t) {
  return r.memory.stat.*Field;
}
template <std::optional<std::uint64_t> cgroup::MemoryStat::*Field>
std::uint64_t of(const Resources& r, std::uint64_t) {
  return (r.memory.stat.*Field).value_or(0);
}

std::uint64_t active(const Resources& r, std::uint64_t) {
  return r.memory.stat.active_anon + r.memory.stat.active_file;
}
std::uint64_t inactive(const Resources& r, std::uint64_t) {
  return r.memory.stat.inactive_anon + r.memory.stat.inactive_file;
}
std::uint64_t slab(const Resources& r, std::uint64_t) {
  return r.memory.stat.slab_reclaimable.value_or(0) + r.memory.stat.slab_unreclaimable.value_or(0);
}
// The machine's vm.overcommit_ratio, as its own figure shows it, of the container's memory.
std::uint64_t commit_limit(const Resources& r, std::uint64_t host) {
  const auto value = [&](std::string_view key) { return r.host.meminfo->get(key).value_or(0); };
  const std::uint64_t counted = saturating_sub(value("MemTotal"), value("Hugetlb"));
  if (counted == 0) return 0;
  const std::uint64_t ratio_percent = mul_div(
      saturating_add(saturating_sub(host, value("SwapTotal")), counted / 200), 100, counted);
  return saturating_add(mul_div(r.memory.total, ratio_percent, 100), r.memory.swap_total);
}

// Those of the default size, where they are limited.
const HugePages* huge_pages(const Resources& r) {
  const std::uint64_t page_bytes = r.host.meminfo->get("Hugepagesize").value_or(0);
  for (const HugePages& pages : r.huge_pages)
    if (pages.page_bytes == page_bytes && page_bytes > 0) return &pages;
  return nullptr;
}
std::uint64_t huge_total(const Resources& r, std::uint64_t host) {
  const HugePages* pages = huge_pages(r);
  return pages ? std::min(host, pages->max / pages->page_bytes) : host;
}
std::uint64_t huge_free(const Resources& r, std::uint64_t host) {
  const HugePages* pages = huge_pages(r);
  return pages ? std::min(host, saturating_sub(pages->max, pages->usage) / pages->page_bytes)
               : host;
}
// Which of the reserved and surplus pages are the container's nobody counts.
std::uint64_t huge_uncounted(const Resources& r, std::uint64_t host) {
  return huge_pages(r) ? 0 : host;
}
// Pools of all sizes; those of the other sizes are what is left of the host's sum.
std::uint64_t huge_bytes(const Resources& r, std::uint64_t host) {
  const std::uint64_t page_bytes = r.host.meminfo->get("Hugepagesize").value_or(0);
  const std::uint64_t total = r.host.meminfo->get("HugePages_Total").value_or(0);
  std::uint64_t others = saturating_sub(host, mul_div(total, page_bytes, 1)), limits = 0;
  bool limited = false;
  for (const HugePages& pages : r.huge_pages) {
    if (pages.page_bytes == page_bytes) continue;
    limits = saturating_add(limits, pages.max);
    limited = true;
  }
  if (limited) others = std::min(others, limits);
  return saturating_add(mul_div(huge_total(r, total), page_bytes, 1), others);
}

struct Row {
  std::string_view key;
  Value value;
  std::string_view source;  // names of cgroup::origin_of(); "": the host's own line
};

using S = cgroup::MemoryStat;
// In the kernel's order (fs/proc/meminfo.c, Linux 6.18, and arch_report_meminfo). A line that is
// not here is shown as 0.
constexpr Row kRows[] = {
    {"MemTotal", of<&Memory::total>, "memory.max"},
    {"MemFree", of<&Memory::free>, "memory.max limit:memory.current memory.above"},
    {"MemAvailable", of<&Memory::available>,
     "memory.max limit:memory.current limit:memory.stat:inactive_file "
     "limit:memory.stat:active_file limit:memory.stat:slab_reclaimable memory.above"},
    {"Buffers", neutral, ""},
    {"Cached", of<&S::file>, "memory.stat:file"},
    {"SwapCached", of<&S::swapcached>, "memory.stat:swapcached"},
    {"Active", active, "memory.stat:active_anon memory.stat:active_file"},
    {"Inactive", inactive, "memory.stat:inactive_anon memory.stat:inactive_file"},
    {"Active(anon)", of<&S::active_anon>, "memory.stat:active_anon"},
    {"Inactive(anon)", of<&S::inactive_anon>, "memory.stat:inactive_anon"},
    {"Active(file)", of<&S::active_file>, "memory.stat:active_file"},
    {"Inactive(file)", of<&S::inactive_file>, "memory.stat:inactive_file"},
    {"Unevictable", of<&S::unevictable>, "memory.stat:unevictable"},
    {"Mlocked", neutral, ""},
    {"SwapTotal", of<&Memory::swap_total>, "memory.swap.max"},
    {"SwapFree", of<&Memory::swap_free>, "memory.swap.max memory.swap.current"},
    {"Zswap", of<&S::zswap>, "memory.stat:zswap"},
    {"Zswapped", of<&S::zswapped>, "memory.stat:zswapped"},
    {"Dirty", of<&S::file_dirty>, "memory.stat:file_dirty"},
    {"Writeback", of<&S::file_writeback>, "memory.stat:file_writeback"},
    {"AnonPages", of<&S::anon>, "memory.stat:anon"},
    {"Mapped", of<&S::file_mapped>, "memory.stat:file_mapped"},
    {"Shmem", of<&S::shmem>, "memory.stat:shmem"},
    {"KReclaimable", of<&S::slab_reclaimable>, "memory.stat:slab_reclaimable"},
    {"Slab", slab, "memory.stat:slab_reclaimable memory.stat:slab_unreclaimable"},
    {"SReclaimable", of<&S::slab_reclaimable>, "memory.stat:slab_reclaimable"},
    {"SUnreclaim", of<&S::slab_unreclaimable>, "memory.stat:slab_unreclaimable"},
    {"KernelStack", of<&S::kernel_stack>, "memory.stat:kernel_stack"},
    {"PageTables", of<&S::pagetables>, "memory.stat:pagetables"},
    {"SecPageTables", of<&S::sec_pagetables>, "memory.stat:sec_pagetables"},
    {"CommitLimit", commit_limit, "memory.max memory.swap.max"},
    {"VmallocTotal", host_figure, ""},
    {"VmallocUsed", of<&S::vmalloc>, "memory.stat:vmalloc"},
    {"Percpu", of<&S::percpu>, "memory.stat:percpu"},
    {"AnonHugePages", of<&S::anon_thp>, "memory.stat:anon_thp"},
    {"ShmemHugePages", of<&S::shmem_thp>, "memory.stat:shmem_thp"},
    {"FileHugePages", of<&S::file_thp>, "memory.stat:file_thp"},
    {"HugePages_Total", huge_total, ""},
    {"HugePages_Free", huge_free, ""},
    {"HugePages_Rsvd", huge_uncounted, ""},
    {"HugePages_Surp", huge_uncounted, ""},
    {"Hugepagesize", host_figure, ""},
    {"Hugetlb", huge_bytes, ""},
};

// Of pools that are not charged to the memory limit.
bool of_huge_pages(std::string_view key) {
  return key.starts_with("HugePages_") || key == "Hugetlb";
}

Value value_of(std::string_view key, const Memory& memory) {
  const bool swap = key == "SwapTotal" || key == "SwapFree";
  if (!of_huge_pages(key) && !(swap ? memory.swap_limited : memory.limited)) return host_figure;
  for (const Row& row : kRows)
    if (row.key == key) return row.value;
  return neutral;
}

// The kernel ends every number in column 24; names that it prints with "%5lu" start it later.
void append_line(std::string& text, const host::MeminfoRow& row, std::uint64_t value) {
  const int name_width = row.key.size() < 15 && row.kib ? 16 : 19;
  const std::size_t start = text.size();
  text += row.key;
  text += ':';
  text.append(saturating_sub(static_cast<std::size_t>(name_width), text.size() - start), ' ');
  fmt::format_to(std::back_inserter(text), "{:>{}}{}", row.kib ? value / 1024 : value,
                 24 - name_width, row.kib ? " kB\n" : "\n");
}

}  // namespace

MeminfoSource meminfo_source(const Resources& r, std::string_view key) {
  if (value_of(key, r.memory) == host_figure) return {true, {}};
  if (of_huge_pages(key) && r.huge_pages.empty()) return {true, {}};
  for (const Row& row : kRows)
    if (row.key == key) return {false, row.source};
  return {};
}

std::uint64_t meminfo_value(const Resources& r, std::string_view key, std::uint64_t host) {
  return value_of(key, r.memory)(r, host);
}

std::string render_meminfo(const Resources& r) {
  std::string text;
  if (!r.host.meminfo) return text;
  text.reserve(r.host.meminfo->rows.size() * 32);
  for (const host::MeminfoRow& row : r.host.meminfo->rows)
    append_line(text, row, meminfo_value(r, row.key, row.value));
  return text;
}

}  // namespace umwelt::view
