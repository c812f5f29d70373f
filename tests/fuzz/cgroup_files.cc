// SPDX-License-Identifier: Apache-2.0
// Every control file's parser reads the same input: no format may upset another's parser.
#include "base/parse.h"
#include "cgroup/parse.h"
#include "targets.h"

int fuzz_cgroup_files(const std::uint8_t* data, std::size_t size) {
  using namespace umwelt;
  const std::string_view text = fuzz::text_of(data, size);
  (void)cgroup::parse_max(text);
  if (const auto limit = cgroup::parse_limit_in_bytes(text); limit && *limit)
    FUZZ_CHECK(**limit < 1ULL << 62);
  if (const auto max = cgroup::parse_cpu_max(text); max && *max) FUZZ_CHECK((*max)->period_us > 0);
  std::string_view rest = text;
  const auto quota = next_line(rest);
  if (const auto cfs = cgroup::parse_cfs(quota.value_or(""), rest); cfs && *cfs)
    FUZZ_CHECK((*cfs)->period_us > 0);
  (void)cgroup::parse_memory_stat_v2(text);
  (void)cgroup::parse_memory_stat_v1(text);
  for (const bool v2 : {false, true})
    FUZZ_CHECK(cgroup::parse_memory_events(text, v2).size() <= size);
  (void)cgroup::parse_pressure_some(text);
  (void)cgroup::parse_cpu_stat(text);
  (void)cgroup::parse_throttled_time_v1(text);
  (void)cgroup::parse_usage_percpu(text);
  (void)cgroup::parse_cpuacct_stat(text);
  (void)cgroup::parse_task_state(text);
  FUZZ_CHECK(cgroup::parse_ids(text).size() <= size);
  (void)cgroup::parse_io_stat(text);
  (void)cgroup::parse_blkio(text, text);
  if (const auto bytes = cgroup::parse_huge_page_directory(text)) FUZZ_CHECK(*bytes % 1024 == 0);
  return 0;
}
