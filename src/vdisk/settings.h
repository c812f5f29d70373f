// SPDX-License-Identifier: Apache-2.0
// The table [disk] of the configuration file; see umwelt.toml(5).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "vdisk/pool.h"
#include "vdisk/template.h"

namespace umwelt::vdisk {

struct Settings {
  Policy policy;
  // Vdisks that the daemon keeps ready for `umwelt run --disk`: so many of this capacity and class.
  unsigned ready = 0;
  std::uint64_t ready_bytes = 10ULL << 30;
  Class ready_class = Class::kThin;
  // Given up when the pool is nearly full; 0: none.
  std::uint64_t ballast_bytes = 0;
  unsigned trim_interval_s = 60;  // between two looks for vdisks to trim; 0: never
};

// An Error (code 0) is a whole sentence that names the place. Other tables and keys are somebody
// else's.
Result<Settings> parse_settings(std::string_view toml_text, const std::string& path);
// The defaults where there is no such file.
Result<Settings> read_settings(const std::string& path);

}  // namespace umwelt::vdisk
