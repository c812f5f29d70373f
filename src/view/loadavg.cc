// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "view/files.h"

namespace umwelt::view {

std::string render_loadavg(const Resources& r) {
  return fmt::format("{:.2f} {:.2f} {:.2f} {}/{} {}\n", r.load.load1, r.load.load5, r.load.load15,
                     r.load.running, r.load.total, r.load.last_pid);
}

}  // namespace umwelt::view
