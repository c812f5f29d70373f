// SPDX-License-Identifier: Apache-2.0
// /sys/kernel/mm/hugepages and node*/hugepages (mm/hugetlb_sysfs.c), where the container may have
// some only.
#include <fmt/format.h>

#include <algorithm>

#include "base/parse.h"
#include "view/files.h"
#include "view/sys_files.h"
#include "view/sys_node.h"

namespace umwelt::view {
namespace {

const HugePages* find(const Resources& r, std::uint64_t page_bytes) {
  for (const HugePages& pages : r.huge_pages)
    if (pages.page_bytes == page_bytes) return &pages;
  return nullptr;
}

// At most so many pages as the limit leaves.
template <std::uint64_t (*Pages)(const HugePages&)>
std::string render(const Resources& r, const SysFile::Subject& of, std::string_view host_text) {
  const HugePages* pages = find(r, of.page_bytes);
  const auto host = parse_u64(trim(host_text));
  if (pages == nullptr || !host) return std::string(host_text);
  return fmt::format("{}\n", std::min(*host, Pages(*pages)));
}

// Without a limit what there is, of the nodes that the container may use.
std::uint64_t count_of_node(const Resources& r, unsigned node, const HugePages* pages,
                            std::uint64_t (*count)(const HugePages&), std::uint64_t host) {
  if (pages == nullptr) return r.nodes.has_memory.test(node) ? host : 0;
  return std::min(host, share_of_node(r.nodes, node, count(*pages)));
}

template <std::uint64_t (*Pages)(const HugePages&)>
std::string render_of_node(const Resources& r, const SysFile::Subject& of,
                           std::string_view host_text) {
  const auto host = parse_u64(trim(host_text));
  if (!host) return std::string(host_text);
  return fmt::format("{}\n", count_of_node(r, of.node, find(r, of.page_bytes), Pages, *host));
}

std::uint64_t total(const HugePages& pages) { return pages.max / pages.page_bytes; }
std::uint64_t unused(const HugePages& pages) {
  return saturating_sub(pages.max, pages.usage) / pages.page_bytes;
}
// Not counted for a cgroup.
std::uint64_t neutral(const HugePages&) { return 0; }

#define POOL "sys/kernel/mm/hugepages/hugepages-*kB/"
#define NODE "sys/devices/system/node/node*/hugepages/hugepages-*kB/"
constexpr SysFile kFiles[] = {
    {POOL "free_hugepages", kNeedHugePages, false, render<unused>},
    {POOL "nr_hugepages", kNeedHugePages, false, render<total>},
    {POOL "nr_hugepages_mempolicy", kNeedHugePages, false, render<total>},
    {POOL "nr_overcommit_hugepages", kNeedHugePages, false, render<neutral>},
    {POOL "resv_hugepages", kNeedHugePages, false, render<neutral>},
    {POOL "surplus_hugepages", kNeedHugePages, false, render<neutral>},
    {NODE "free_hugepages", kNeedHugePages, false, render_of_node<unused>},
    {NODE "nr_hugepages", kNeedHugePages, false, render_of_node<total>},
    {NODE "surplus_hugepages", kNeedHugePages, false, render_of_node<neutral>},
};
#undef POOL
#undef NODE

}  // namespace

std::span<const SysFile> hugepages_files() { return kFiles; }

std::uint64_t huge_pages_of_node(const Resources& r, unsigned node, std::string_view key,
                                 std::uint64_t host) {
  const std::uint64_t page_bytes =
      r.host.meminfo ? r.host.meminfo->get("Hugepagesize").value_or(0) : 0;
  const auto count = key == "HugePages_Total" ? total : key == "HugePages_Free" ? unused : neutral;
  return count_of_node(r, node, find(r, page_bytes), count, host);
}

}  // namespace umwelt::view
