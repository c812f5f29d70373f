// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "view/resources.h"

namespace umwelt::view {

// What /proc/meminfo says on the line `key`, in bytes (a plain number for a line without "kB").
// `host` is the machine's own figure.
std::uint64_t meminfo_value(const Resources& r, std::string_view key, std::uint64_t host);

}  // namespace umwelt::view
