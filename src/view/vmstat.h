// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "view/resources.h"

namespace umwelt::view {

// What the container has of a gauge of /proc/vmstat, in the unit of its line (pages, huge pages,
// KiB); nullopt if `key` is a counter or unknown.
std::optional<std::uint64_t> vmstat_gauge(const Resources& r, std::string_view key);

}  // namespace umwelt::view
