// SPDX-License-Identifier: Apache-2.0
#include "intercept/sysinfo.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace umwelt::intercept {
namespace {

constexpr std::uint64_t kNsPerSecond = 1'000'000'000;
constexpr double kLoadUnit = 65536;  // 1 << SI_LOAD_SHIFT
constexpr unsigned kPageBytes = 4096;

// include/uapi/linux/sysinfo.h; __kernel_ulong_t is 64 bits wide for x32 too.
struct Sysinfo64 {
  std::int64_t uptime;
  std::uint64_t loads[3];
  std::uint64_t totalram, freeram, sharedram, bufferram, totalswap, freeswap;
  std::uint16_t procs, pad;
  std::uint32_t pad2;
  std::uint64_t totalhigh, freehigh;
  std::uint32_t mem_unit, pad3;
};
static_assert(sizeof(Sysinfo64) == 112);

struct Sysinfo32 {  // struct compat_sysinfo
  std::int32_t uptime;
  std::uint32_t loads[3];
  std::uint32_t totalram, freeram, sharedram, bufferram, totalswap, freeswap;
  std::uint16_t procs, pad;
  std::uint32_t totalhigh, freehigh, mem_unit;
  char f[8];
};
static_assert(sizeof(Sysinfo32) == 64);

template <class T>
std::string bytes_of(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

Sysinfo32 narrow(const Sysinfo64& wide) {
  Sysinfo32 out{};
  unsigned shift = 0;
  out.mem_unit = wide.mem_unit;
  if (wide.totalram >> 32 != 0 || wide.totalswap >> 32 != 0)
    for (; out.mem_unit < kPageBytes; out.mem_unit <<= 1) ++shift;
  const auto scaled = [shift](std::uint64_t bytes) {
    return static_cast<std::uint32_t>(bytes >> shift);
  };
  out.uptime = static_cast<std::int32_t>(wide.uptime);
  for (int i = 0; i < 3; ++i) out.loads[i] = static_cast<std::uint32_t>(wide.loads[i]);
  out.totalram = scaled(wide.totalram);
  out.freeram = scaled(wide.freeram);
  out.sharedram = scaled(wide.sharedram);
  out.bufferram = scaled(wide.bufferram);
  out.totalswap = scaled(wide.totalswap);
  out.freeswap = scaled(wide.freeswap);
  out.procs = wide.procs;
  return out;
}

}  // namespace

std::string render_sysinfo(const view::Resources& r, Layout layout) {
  const auto host = [&r](std::string_view key) {
    return r.host.meminfo ? r.host.meminfo->get(key).value_or(0) : 0;
  };
  Sysinfo64 info{};
  info.uptime = static_cast<std::int64_t>((r.uptime.uptime_ns + kNsPerSecond - 1) / kNsPerSecond);
  const double loads[] = {r.load.load1, r.load.load5, r.load.load15};
  for (int i = 0; i < 3; ++i)
    info.loads[i] = static_cast<std::uint64_t>(std::llround(std::max(loads[i], 0.0) * kLoadUnit));
  info.totalram = r.memory.total;
  info.freeram = r.memory.free;
  info.sharedram = r.memory.limited ? r.memory.stat.shmem : host("Shmem");
  info.bufferram = r.memory.limited ? 0 : host("Buffers");
  info.totalswap = r.memory.swap_total;
  info.freeswap = r.memory.swap_free;
  info.procs = static_cast<std::uint16_t>(std::min<std::uint64_t>(r.load.total, UINT16_MAX));
  info.mem_unit = 1;
  return layout == Layout::k64 ? bytes_of(info) : bytes_of(narrow(info));
}

}  // namespace umwelt::intercept
