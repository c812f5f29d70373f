// SPDX-License-Identifier: Apache-2.0
#include "host/parse.h"
#include "targets.h"

int fuzz_proc_stat(const std::uint8_t* data, std::size_t size) {
  const auto stat = umwelt::host::parse_stat(umwelt::fuzz::text_of(data, size));
  if (!stat) return 0;
  for (std::size_t i = 1; i < stat->cpus.size(); ++i)
    FUZZ_CHECK(stat->cpus[i - 1].first < stat->cpus[i].first);
  FUZZ_CHECK(stat->intr_columns <= size);
  return 0;
}
