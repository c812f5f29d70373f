// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>

#include "cli/log_file.h"
#include "cli/options.h"
#include "cli/output.h"
#include "targets.h"

namespace {

// An error is a sentence on one line, whatever was given.
template <class T>
bool good(const umwelt::Result<T>& result) {
  if (result) return true;
  const std::string& text = result.error().text;
  FUZZ_CHECK(!text.empty());
  FUZZ_CHECK(text.find('\n') == std::string::npos);
  return false;
}

void check_values(std::string_view text) {
  using namespace umwelt::cli;
  if (const auto cpus = parse_cpus(text); good(cpus))
    FUZZ_CHECK(*cpus >= kMinCpus && *cpus <= kMaxCpus);
  if (const auto period = parse_cpu_period(text); good(period))
    FUZZ_CHECK(*period >= 1000 && *period <= 1000000);
  if (const auto quota = parse_cpu_quota(text); good(quota)) FUZZ_CHECK(*quota >= 1000);
  if (const auto shares = parse_cpu_shares(text); good(shares))
    FUZZ_CHECK(*shares >= 2 && *shares <= 262144);
  if (const auto set = parse_cpuset(text); good(set)) FUZZ_CHECK(!set->empty());
  if (const auto bytes = parse_memory(text); good(bytes))
    FUZZ_CHECK(*bytes >= kMinMemoryBytes && *bytes <= kMaxMemoryBytes);
  if (const auto pids = parse_pids_limit(text); good(pids))
    FUZZ_CHECK(*pids >= 1 && *pids <= kMaxPids);
  good(parse_cpu_policy(text));
  good(parse_cpu_ids(text));
  good(parse_uptime_policy(text));
  if (const auto signal = parse_signal(text); good(signal))
    FUZZ_CHECK(*signal >= 1 && *signal <= 64);
  if (const auto name = parse_name(text); good(name)) FUZZ_CHECK(name->size() <= 64);
  good(parse_since(text, 1767323045));
  parse_utc_time(text);
  parse_log_line(text);
  const std::string shown = printable(text, 20);
  FUZZ_CHECK(shown.find('\n') == std::string::npos && shown.find('\x1b') == std::string::npos);
}

}  // namespace

int fuzz_cli_options(const std::uint8_t* data, std::size_t size) {
  check_values(umwelt::fuzz::text_of(data, size));
  return 0;
}
