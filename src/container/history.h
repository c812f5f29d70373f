// SPDX-License-Identifier: Apache-2.0
// What a container has been shown, as far as later answers depend on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "view/accounting.h"

namespace umwelt::container {

struct History {
  view::CpuAccounting cpu;
  view::LoadAccounting load;
  view::IoAccounting io;

  // CLOCK_BOOTTIME of its last sample of CPU time or load; 0: none.
  std::uint64_t sampled_ns() const;
};

// A history as numbers of 64 bits, as many as history_size() tells.
std::size_t history_size(const History& history);
void put_history(const History& history, std::span<std::uint64_t> words);
// EINVAL for anything but a whole history.
Result<History> take_history(std::span<const std::uint64_t> words);

}  // namespace umwelt::container
