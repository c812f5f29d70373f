// SPDX-License-Identifier: Apache-2.0
#include "host/parse.h"
#include "targets.h"

int fuzz_proc_cpuinfo(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = umwelt::fuzz::text_of(data, size);
  const auto cpuinfo = umwelt::host::parse_cpuinfo(text);
  if (!cpuinfo) return 0;
  // Nothing of the text is lost.
  std::string again = cpuinfo->header;
  for (const auto& block : cpuinfo->blocks) {
    for (const auto& field : block.fields)
      again += field.key + field.separator + field.value + "\n";
    again += block.end;
  }
  FUZZ_CHECK(again + cpuinfo->trailer == text);
  return 0;
}
