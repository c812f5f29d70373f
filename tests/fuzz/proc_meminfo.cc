// SPDX-License-Identifier: Apache-2.0
#include "host/parse.h"
#include "targets.h"

int fuzz_proc_meminfo(const std::uint8_t* data, std::size_t size) {
  const auto meminfo = umwelt::host::parse_meminfo(umwelt::fuzz::text_of(data, size));
  if (!meminfo) return 0;
  for (const auto& row : meminfo->rows) FUZZ_CHECK(meminfo->get(row.key).has_value());
  return 0;
}
