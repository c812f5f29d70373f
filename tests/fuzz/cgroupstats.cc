// SPDX-License-Identifier: Apache-2.0
#include "cgroup/cgroupstats.h"

#include "targets.h"

int fuzz_cgroupstats(const std::uint8_t* data, std::size_t size) {
  // Any sequence number but one is an answer to somebody else's question.
  const std::string_view message = umwelt::fuzz::text_of(data, size);
  const bool first = umwelt::cgroup::parse_cgroupstats(message, 1).has_value();
  const bool second = umwelt::cgroup::parse_cgroupstats(message, 2).has_value();
  FUZZ_CHECK(!first || !second);
  return 0;
}
