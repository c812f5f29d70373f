// SPDX-License-Identifier: Apache-2.0
// Every table's parser reads the same input: no format may upset another's parser.
#include "host/parse.h"
#include "targets.h"

int fuzz_proc_tables(const std::uint8_t* data, std::size_t size) {
  using namespace umwelt::host;
  const std::string_view text = umwelt::fuzz::text_of(data, size);
  (void)parse_vmstat(text);
  (void)parse_diskstats(text);
  (void)parse_partitions(text);
  (void)parse_zoneinfo(text);
  (void)parse_buddyinfo(text);
  (void)parse_cgroups(text);
  if (const auto slabinfo = parse_slabinfo(text))
    FUZZ_CHECK(slabinfo->heading.size() <= slabinfo->text.size() + 1);
  if (const auto table = parse_per_cpu_table(text)) {
    for (const PerCpuTable::Row& row : table->rows)
      FUZZ_CHECK(row.counts.size() <= table->cpus.size());
  }
  if (const auto schedstat = parse_schedstat(text)) {
    std::size_t bytes = schedstat->header.size();
    for (const Schedstat::Cpu& cpu : schedstat->cpus) {
      bytes += cpu.rest.size();
      for (const Schedstat::Domain& domain : cpu.domains)
        bytes += domain.name.size() + domain.mask.size() + domain.rest.size();
    }
    FUZZ_CHECK(bytes <= size + 1);
  }
  return 0;
}
