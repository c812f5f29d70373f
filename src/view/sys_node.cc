// SPDX-License-Identifier: Apache-2.0
// /sys/devices/system/node (drivers/base/node.c).
#include "view/sys_node.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/parse.h"
#include "view/files.h"
#include "view/meminfo.h"
#include "view/sys_cpu.h"
#include "view/sys_files.h"
#include "view/vmstat.h"

namespace umwelt::view {
namespace {

constexpr std::string_view kDigits = "0123456789";

std::string render_cpulist(const Resources& r, const SysFile::Subject&,
                           std::string_view host_text) {
  return translate_list(r.cpus, host_text);
}

std::string render_cpumap(const Resources& r, const SysFile::Subject&, std::string_view host_text) {
  return translate_mask(r.cpus, host_text);
}

// A number for each of the host's nodes that are online.
std::string render_distance(const Resources& r, const SysFile::Subject&,
                            std::string_view host_text) {
  std::string text;
  host_text = trim(host_text);
  for (const unsigned node : r.nodes.host_online.ids()) {
    const std::string_view word = next_word(host_text);
    if (word.empty()) return {};
    if (!r.nodes.online.test(node)) continue;
    fmt::format_to(std::back_inserter(text), "{}{}", text.empty() ? "" : " ", word);
  }
  return line(std::move(text));
}

// `text` with its last number replaced; that stands where it stood, as "%8lu" puts it.
std::string with_number(std::string_view text, std::uint64_t value) {
  const std::size_t last = text.find_last_of(kDigits);
  const std::size_t before = text.find_last_not_of(kDigits, last);
  const std::string_view label = text.substr(0, text.find_last_not_of(' ', before) + 1);
  return fmt::format("{} {:>{}}{}", label, value, last + 1 - std::min(last + 1, label.size() + 1),
                     text.substr(last + 1));
}

// In KiB, or a plain number for a line without a unit.
std::uint64_t meminfo_of_node(const Resources& r, unsigned node, std::string_view key, bool kib,
                              std::uint64_t host) {
  if (key.starts_with("HugePages_")) return huge_pages_of_node(r, node, key, host);
  const std::uint64_t unit = kib ? 1024 : 1;
  const auto share = [&](std::string_view meminfo_key) {
    return share_of_node(r.nodes, node, meminfo_value(r, meminfo_key, 0) / unit);
  };
  if (key == "MemUsed") return saturating_sub(share("MemTotal"), share("MemFree"));
  if (key == "FilePages") return share("Cached") + share("SwapCached");
  return share(key);
}

// "Node 0 MemTotal:       24684232 kB"
std::string render_meminfo_of_node(const Resources& r, const SysFile::Subject& of,
                                   std::string_view host_text) {
  if (!r.memory.limited && r.huge_pages.empty()) return std::string(host_text);
  std::string text;
  while (const auto host_line = next_line(host_text)) {
    std::string_view rest = *host_line;
    const std::string_view node = next_word(rest), id = next_word(rest);
    std::string_view key = next_word(rest);
    const auto host = parse_u64(next_word(rest));
    if (node != "Node" || !parse_u64(id) || !key.ends_with(':') || !host) return {};
    key.remove_suffix(1);
    // The pools have limits of their own.
    if (!r.memory.limited && !key.starts_with("HugePages_")) {
      text += line(std::string(*host_line));
      continue;
    }
    text += line(with_number(*host_line, meminfo_of_node(r, of.node, key, rest == " kB", *host)));
  }
  return text;
}

// Counters of what the kernel did on a node; no cgroup has them.
std::string render_numastat(const Resources& r, const SysFile::Subject&,
                            std::string_view host_text) {
  if (!r.memory.limited) return std::string(host_text);
  std::string text;
  while (auto row = next_line(host_text)) text += fmt::format("{} 0\n", next_word(*row));
  return text;
}

// Of one length whatever the figures are: the kernel has pages and size of this file in its cache,
// and of a text that becomes longer while it is read only a part would be seen, or its end once
// more. What is not used of the room for them are spaces at the end.
std::string of_one_length(std::string text) {
  constexpr std::size_t kRoom = 12;  // digits
  std::size_t size = 0;
  std::string_view rest = text;
  while (auto row = next_line(rest)) size += next_word(*row).size() + 1 + kRoom + 1;
  if (text.size() < size) text.insert(text.size() - 1, size - text.size(), ' ');
  return text;
}

std::string render_vmstat_of_node(const Resources& r, const SysFile::Subject& of,
                                  std::string_view host_text) {
  if (!r.memory.limited) return of_one_length(std::string(host_text));
  std::string text;
  while (auto host_line = next_line(host_text)) {
    const std::string_view key = next_word(*host_line);
    // Counters of what the kernel did on a node are 0, as in numastat.
    const std::uint64_t value = share_of_node(r.nodes, of.node, vmstat_gauge(r, key).value_or(0));
    fmt::format_to(std::back_inserter(text), "{} {}\n", key, value);
  }
  return of_one_length(std::move(text));
}

#define NODE "sys/devices/system/node/node*/"
constexpr SysFile kFiles[] = {
    {NODE "cpulist", 0, true, render_cpulist},
    {NODE "cpumap", 0, true, render_cpumap},
    {NODE "distance", 0, true, render_distance},
    {NODE "meminfo", kNeedMemory | kNeedHugePages, false, render_meminfo_of_node},
    {NODE "numastat", kNeedMemory, false, render_numastat},
    {NODE "vmstat", kNeedMemory, false, render_vmstat_of_node},
};
#undef NODE

}  // namespace

std::span<const SysFile> sys_node_files() { return kFiles; }

// Cut at the same places for every value, so that the parts sum to it.
std::uint64_t share_of_node(const Nodes& nodes, unsigned node, std::uint64_t value) {
  std::uint64_t all = 0, before = 0, own = 0;
  for (const NodeMemory& memory : nodes.memory) {
    if (memory.node < node) before += memory.bytes;
    if (memory.node == node) own = memory.bytes;
    all += memory.bytes;
  }
  if (own == 0) return 0;
  return mul_div(value, before + own, all) - mul_div(value, before, all);
}

std::string render_node_online(const Resources& r) { return line(r.nodes.online.list()); }
std::string render_node_possible(const Resources& r) { return line(r.nodes.possible.list()); }
std::string render_node_has_cpu(const Resources& r) { return line(r.nodes.has_cpu.list()); }
std::string render_node_has_memory(const Resources& r) { return line(r.nodes.has_memory.list()); }
std::string render_node_has_normal_memory(const Resources& r) {
  return line(r.nodes.has_normal_memory.list());
}
std::string render_node_has_generic_initiator(const Resources& r) {
  return line(r.nodes.has_generic_initiator.list());
}

}  // namespace umwelt::view
