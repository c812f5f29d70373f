// SPDX-License-Identifier: Apache-2.0
#include "host/parse.h"
#include "targets.h"

int fuzz_proc_swaps(const std::uint8_t* data, std::size_t size) {
  const auto swaps = umwelt::host::parse_swaps(umwelt::fuzz::text_of(data, size));
  if (!swaps) return 0;
  for (const auto& swap : *swaps) FUZZ_CHECK(!swap.filename.empty());
  return 0;
}
