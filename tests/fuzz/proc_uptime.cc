// SPDX-License-Identifier: Apache-2.0
#include "host/parse.h"
#include "targets.h"

int fuzz_proc_uptime(const std::uint8_t* data, std::size_t size) {
  (void)umwelt::host::parse_uptime(umwelt::fuzz::text_of(data, size));
  return 0;
}
