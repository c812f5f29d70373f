// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "host/parse.h"
#include "targets.h"

int fuzz_proc_loadavg(const std::uint8_t* data, std::size_t size) {
  const auto load = umwelt::host::parse_loadavg(umwelt::fuzz::text_of(data, size));
  if (!load) return 0;
  for (const double value : {load->load1, load->load5, load->load15})
    FUZZ_CHECK(std::isfinite(value));
  return 0;
}
