// SPDX-License-Identifier: Apache-2.0
// A served file line by line, with the kernel's files that each line comes from.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/result.h"
#include "container/container.h"

namespace umwelt::container {

// `path` is absolute ("/proc/meminfo"). An array of
//   {"text": LINE, "from": [{"file": PATH, "line": KEY, "value": TEXT}...], "note": TEXT}
// without "line" for a whole file. The values are read right after the text. ENOENT for a file that
// is not served, or that this kernel lacks; else as Container::resources().
Result<nlohmann::json> explain(Container& container, const std::string& path);

}  // namespace umwelt::container
