// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "intercept/request.h"
#include "view/files.h"

namespace umwelt::intercept {

// What render_sysinfo() shows: bits of view::Need.
inline constexpr unsigned kSysinfoNeeds =
    view::kNeedMemory | view::kNeedSwaps | view::kNeedUptime | view::kNeedLoad;

// The bytes of struct sysinfo as sysinfo(2) fills it for a caller of this layout (kernel/sys.c):
// 112, or 64 with the memory in larger units where it would not fit in 32 bits. The figures are
// those of /proc/meminfo, uptime and loadavg. Pure.
std::string render_sysinfo(const view::Resources& resources, Layout layout);

}  // namespace umwelt::intercept
