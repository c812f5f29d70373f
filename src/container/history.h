// SPDX-License-Identifier: Apache-2.0
// What a container has been shown, as far as later answers depend on it: kept beside its record, so
// that no counter goes back when the daemon is restarted.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "view/accounting.h"

namespace umwelt::container {

struct History {
  view::CpuAccounting cpu;
  view::LoadAccounting load;
  view::IoAccounting io;
};

std::string history_to_text(const History& history);
// EINVAL for anything but a whole history.
Result<History> history_from_text(std::string_view text);

}  // namespace umwelt::container
