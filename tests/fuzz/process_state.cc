// SPDX-License-Identifier: Apache-2.0
#include "intercept/process_state.h"

#include "targets.h"

int fuzz_process_state(const std::uint8_t* data, std::size_t size) {
  const auto state = umwelt::intercept::parse_process_state(umwelt::fuzz::text_of(data, size));
  if (!state) {
    FUZZ_CHECK(state.error().code == EBADMSG);
    return 0;
  }
  FUZZ_CHECK(!state->fds.empty() && state->fds.size() <= 8);
  return 0;
}
