// SPDX-License-Identifier: Apache-2.0
// What /proc/diskstats says of a container's own disk, for files that say it in other units.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "view/resources.h"

namespace umwelt::view {

// The columns of Documentation/admin-guide/iostats.rst.
using DiskCounts = std::vector<std::uint64_t>;
inline constexpr std::size_t kSectorsRead = 2, kSectorsWritten = 6;

// nullopt: it has none, or the machine does not count it.
std::optional<DiskCounts> counts_of_own_disk(const Resources& r);

}  // namespace umwelt::view
