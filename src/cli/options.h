// SPDX-License-Identifier: Apache-2.0
// Options that several commands share, and the parsing of their values. Every parse_ function
// fails with a sentence (Error::code 0) that says what was given and what is allowed; the caller's
// option name is put before it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "launch/spec.h"

namespace CLI {
class App;
}

namespace umwelt::cli {

inline constexpr double kMinCpus = 0.01, kMaxCpus = 8192;
inline constexpr std::uint64_t kMinMemoryBytes = 4ULL << 20, kMaxMemoryBytes = 1ULL << 62;
inline constexpr std::uint64_t kMaxPids = 1ULL << 22;  // the kernel's PID_MAX_LIMIT

Result<double> parse_cpus(std::string_view text);                       // "1.5": 0.01 to kMaxCpus
Result<std::uint64_t> parse_cpu_period(std::string_view text);          // us, 1000 to 1000000
Result<std::uint64_t> parse_cpu_quota(std::string_view text);           // us, at least 1000
Result<std::uint64_t> parse_cpu_shares(std::string_view text);          // 2 to 262144
Result<CpuSet> parse_cpuset(std::string_view text);                     // "0-2,4", not empty
Result<std::uint64_t> parse_memory(std::string_view text);              // bytes, at least 4 MiB
Result<std::uint64_t> parse_pids_limit(std::string_view text);          // 1 to 4194304
Result<view::CpuPolicy> parse_cpu_policy(std::string_view text);        // ceil, floor, cpuset
Result<view::CpuIds> parse_cpu_ids(std::string_view text);              // auto, dense, host
Result<view::UptimePolicy> parse_uptime_policy(std::string_view text);  // auto, container, host
// "TERM", "SIGTERM" or "15".
Result<int> parse_signal(std::string_view text);
// A container's name: [a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}.
Result<std::string> parse_name(std::string_view text);

// --cpus, --cpu-period, --cpu-quota, --cpu-shares, --cpuset-cpus (--cpuset), --cpuset-mems,
// --memory, --memory-swap, --pids-limit.
struct LimitOptions {
  launch::ResourceLimits limits;  // what each option says by itself
  std::optional<double> cpus;
  std::optional<std::uint64_t> cpu_period_us, cpu_quota_us;

  bool any() const;
};
void add_limit_options(CLI::App& command, LimitOptions& options);
// An Error with code 0 where they contradict each other, whatever the container has.
Result<void> check_limit_options(const LimitOptions& options);
// All of them together; an Error with code 0 where they contradict each other (--cpus and
// --cpu-quota, --memory-swap below --memory) or what the container has already (`current`), which
// is not part of the result. Whether this host can meet them is launch::check_limits()'s matter.
Result<launch::ResourceLimits> resource_limits(const LimitOptions& options,
                                               const launch::ResourceLimits& current = {});

// --cpu-policy, --cpu-ids, --uptime.
void add_policy_options(CLI::App& command, view::Policy& policy);

// These are all that a command needs of CLI11, whose header takes long to compile.
struct OptionLook {
  std::string group = {};  // the heading in --help; "": "Options"
  bool repeated = false;   // may be given more than once; else the last one counts
};
void add_flag(CLI::App& command, const std::string& names, bool& value,
              const std::string& description);
// `value_name` stands for the value in --help.
void add_text(CLI::App& command, const std::string& names, const std::string& value_name,
              std::string& value, const std::string& description);
// `check` gives a sentence when the text is wrong, "" when it took it.
void add_checked(CLI::App& command, const std::string& names, const std::string& value_name,
                 std::function<std::string(const std::string&)> check,
                 const std::string& description, const OptionLook& look);

// An option whose text `parse` turns into a T for `store`; a failure is a usage error that names
// the option.
template <class T, class Store>
void add_parsed(CLI::App& command, const std::string& names, const std::string& value_name,
                Result<T> (*parse)(std::string_view), Store store, const std::string& description,
                const OptionLook& look = {}) {
  add_checked(
      command, names, value_name,
      [parse, store](const std::string& text) -> std::string {
        auto value = parse(text);
        if (!value) return value.error().text;
        store(*std::move(value));
        return {};
      },
      description, look);
}

}  // namespace umwelt::cli
