// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "container/history.h"
#include "container/record.h"

namespace umwelt::container {

// A container made on demand, as far as one that is made later goes on from it.
struct Kept {
  Record record;
  History history;
};

// One line, its end included.
std::string kept_to_line(const Kept& kept);
// EINVAL for anything but a whole line, without its end.
Result<Kept> kept_from_line(std::string_view line);

}  // namespace umwelt::container
