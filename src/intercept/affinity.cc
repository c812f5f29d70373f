// SPDX-License-Identifier: Apache-2.0
#include "intercept/affinity.h"

#include <algorithm>

namespace umwelt::intercept {
namespace {

constexpr std::size_t kWordBytes = 8;

std::size_t bytes_for(unsigned nr_cpu_ids) {
  return (nr_cpu_ids + kWordBytes * 8 - 1) / (kWordBytes * 8) * kWordBytes;
}

CpuSet physical_of(const view::Cpus& cpus, const CpuSet& shown) {
  CpuSet result;
  for (const view::ShownCpu& cpu : cpus.shown)
    if (shown.test(cpu.id)) result.set(cpu.physical);
  return result;
}

}  // namespace

MaskSize mask_size(const view::Cpus& cpus, const CpuSet& host_possible, std::size_t host_bytes) {
  MaskSize size;
  size.nr_cpu_ids = cpus.possible.last().value_or(0) + 1;
  const bool follows = host_bytes == bytes_for(host_possible.last().value_or(0) + 1);
  size.bytes = follows ? bytes_for(size.nr_cpu_ids) : host_bytes;
  return size;
}

std::optional<std::size_t> getaffinity_bytes(const MaskSize& size, std::uint32_t length,
                                             Layout layout) {
  const std::uint32_t bits = length * 8;  // wraps, as in the kernel
  const std::uint32_t word = layout == Layout::k64 ? 8 : 4;
  if (bits < size.nr_cpu_ids || length % word != 0) return std::nullopt;
  return std::min<std::size_t>(length, size.bytes);
}

std::size_t setaffinity_bytes(const MaskSize& size, std::uint32_t length, Layout layout) {
  std::size_t bytes = std::min<std::size_t>(length, size.bytes);
  if (layout == Layout::k32) bytes = (bytes + 3) / 4 * 4;  // whole compat_ulong_t
  return bytes;
}

const CpuSet& every_cpu() {
  static const CpuSet all = CpuSet::range(0, CpuSet::kMaxId);
  return all;
}

CpuSet shown_affinity(const view::Cpus& cpus, const CpuSet& real) {
  if (real.contains(cpus.allowed)) return cpus.online;
  CpuSet shown = cpus.translate(real);
  return shown.empty() ? cpus.online : shown;
}

CpuSet real_affinity(const view::Cpus& cpus, const CpuSet& asked) {
  const CpuSet shown = asked & cpus.online;
  if (shown == cpus.online) return every_cpu();
  return physical_of(cpus, shown);
}

unsigned shown_cpu(const view::Cpus& cpus, const CpuSet& real, unsigned physical) {
  const CpuSet shown = shown_affinity(cpus, real);
  for (const view::ShownCpu& cpu : cpus.shown)
    if (cpu.physical == physical && shown.test(cpu.id)) return cpu.id;
  // A CPU of the cpuset that a quota leaves out: its tasks are spread over the shown ones.
  const std::vector<unsigned> ids = shown.ids();
  const CpuSet below = physical == 0 ? CpuSet() : CpuSet::range(0, physical - 1);
  return ids.empty() ? 0 : ids[(cpus.allowed & below).count() % ids.size()];
}

CpuSet cpus_from_bytes(std::string_view bytes) {
  CpuSet cpus;
  for (std::size_t i = 0; i < bytes.size() && i * 8 <= CpuSet::kMaxId; ++i)
    for (unsigned bit = 0; bit < 8; ++bit)
      if ((static_cast<unsigned char>(bytes[i]) >> bit & 1) != 0)
        cpus.set(static_cast<unsigned>(i * 8) + bit);
  return cpus;
}

std::string cpus_to_bytes(const CpuSet& cpus, std::size_t bytes) {
  std::string out(bytes, '\0');
  for (const unsigned id : cpus.ids())
    if (id / 8 < bytes) out[id / 8] = static_cast<char>(out[id / 8] | 1 << id % 8);
  return out;
}

}  // namespace umwelt::intercept
