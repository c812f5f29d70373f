// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "view/files.h"

namespace umwelt::view {

std::string render_uptime(const Resources& r) {
  constexpr std::uint64_t kSecond = 1'000'000'000, kHundredth = 10'000'000;
  const std::uint64_t up = r.uptime.uptime_ns, idle = r.uptime.idle_ns;
  return fmt::format("{}.{:02} {}.{:02}\n", up / kSecond, up % kSecond / kHundredth, idle / kSecond,
                     idle % kSecond / kHundredth);
}

}  // namespace umwelt::view
