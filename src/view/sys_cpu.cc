// SPDX-License-Identifier: Apache-2.0
// /sys/devices/system/cpu: the lists (drivers/base/cpu.c) and the files of cpuN that name CPUs
// (drivers/base/topology.c, drivers/base/cacheinfo.c).
#include "view/sys_cpu.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <optional>

#include "base/parse.h"
#include "view/topology.h"

namespace umwelt::view {
namespace {

std::string render_mask(const Resources& r, const SysFile::Subject&, std::string_view host_text) {
  return translate_mask(r.cpus, host_text);
}

std::string render_list(const Resources& r, const SysFile::Subject&, std::string_view host_text) {
  return translate_list(r.cpus, host_text);
}

// "0 1 2" (drivers/cpufreq/cpufreq.c)
std::string render_words(const Resources& r, const SysFile::Subject&, std::string_view host_text) {
  CpuSet physical;
  for (auto word = next_word(host_text = trim(host_text)); !word.empty();
       word = next_word(host_text))
    if (const auto id = parse_u64(word); id && *id <= CpuSet::kMaxId)
      physical.set(static_cast<unsigned>(*id));
  std::string text;
  for (const unsigned id : r.cpus.translate(physical).ids())
    fmt::format_to(std::back_inserter(text), "{}{}", text.empty() ? "" : " ", id);
  return line(std::move(text));
}

// A number of the arrangement: the host's under host ids, and where the firmware does not tell.
template <unsigned ShownTopology::*Field>
std::string render_number(const Resources& r, const SysFile::Subject& of,
                          std::string_view host_text) {
  if (!r.cpus.dense || host_text.starts_with('-')) return std::string(host_text);
  const auto index = static_cast<std::size_t>(r.cpus.by_id(of.cpu->id) - r.cpus.shown.data());
  return line(fmt::format("{}", shown_topology(r)[index].*Field));
}

// "(null)" without nohz_full= (tick_nohz_full_mask in kernel/time)
std::string render_nohz_full(const Resources& r, const SysFile::Subject&,
                             std::string_view host_text) {
  const std::optional<CpuSet> set = CpuSet::parse(host_text);
  return set ? line(r.cpus.translate(*set).list()) : std::string(host_text);
}

#define CPU "sys/devices/system/cpu/cpu*/"
constexpr SysFile kFiles[] = {
    {CPU "cache/index*/shared_cpu_list", 0, true, render_list},
    {CPU "cache/index*/shared_cpu_map", 0, true, render_mask},
    {CPU "topology/book_siblings", 0, true, render_mask},
    {CPU "topology/book_siblings_list", 0, true, render_list},
    {CPU "topology/cluster_cpus", 0, true, render_mask},
    {CPU "topology/cluster_cpus_list", 0, true, render_list},
    {CPU "topology/core_cpus", 0, true, render_mask},
    {CPU "topology/core_cpus_list", 0, true, render_list},
    {CPU "topology/core_id", 0, true, render_number<&ShownTopology::core>},
    {CPU "topology/core_siblings", 0, true, render_mask},
    {CPU "topology/core_siblings_list", 0, true, render_list},
    {CPU "topology/die_cpus", 0, true, render_mask},
    {CPU "topology/die_cpus_list", 0, true, render_list},
    {CPU "topology/die_id", 0, true, render_number<&ShownTopology::die>},
    {CPU "topology/drawer_siblings", 0, true, render_mask},
    {CPU "topology/drawer_siblings_list", 0, true, render_list},
    {CPU "topology/package_cpus", 0, true, render_mask},
    {CPU "topology/package_cpus_list", 0, true, render_list},
    {CPU "topology/physical_package_id", 0, true, render_number<&ShownTopology::package>},
    {CPU "topology/thread_siblings", 0, true, render_mask},
    {CPU "topology/thread_siblings_list", 0, true, render_list},
    {"sys/devices/system/cpu/cpufreq/policy*/affected_cpus", 0, false, render_words},
    {"sys/devices/system/cpu/cpufreq/policy*/freqdomain_cpus", 0, false, render_words},
    {"sys/devices/system/cpu/cpufreq/policy*/related_cpus", 0, false, render_words},
    {"sys/devices/system/cpu/nohz_full", 0, true, render_nohz_full},
};
#undef CPU

}  // namespace

std::span<const SysFile> sys_cpu_files() { return kFiles; }

std::string translate_list(const Cpus& cpus, std::string_view host_text) {
  const std::optional<CpuSet> set = CpuSet::parse(host_text);
  return set ? line(cpus.translate(*set).list()) : std::string();
}

std::string translate_mask(const Cpus& cpus, std::string_view host_text) {
  host_text = trim(host_text);
  const std::optional<CpuSet> mask = CpuSet::parse_mask(host_text);
  return mask ? line(cpus.translate(*mask).mask(mask_bits(host_text))) : std::string();
}

unsigned mask_bits(std::string_view mask) {
  return 4 * static_cast<unsigned>(
                 std::count_if(mask.begin(), mask.end(), [](char c) { return c != ','; }));
}

std::string line(std::string text) {
  text += '\n';
  return text;
}

std::string render_cpu_online(const Resources& r) { return line(r.cpus.online.list()); }
std::string render_cpu_offline(const Resources& r) { return line(r.cpus.offline.list()); }
std::string render_cpu_possible(const Resources& r) { return line(r.cpus.possible.list()); }
std::string render_cpu_present(const Resources& r) { return line(r.cpus.present.list()); }
std::string render_cpu_enabled(const Resources& r) { return line(r.cpus.enabled.list()); }
std::string render_cpu_isolated(const Resources& r) { return line(r.cpus.isolated.list()); }
std::string render_cpu_kernel_max(const Resources& r) {
  return line(fmt::format("{}", r.cpus.kernel_max));
}

}  // namespace umwelt::view
