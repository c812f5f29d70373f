// SPDX-License-Identifier: Apache-2.0
#include "cli/options.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "base/parse.h"
#include "cli/output.h"
#include "container/record.h"

namespace umwelt::cli {
namespace {

tl::unexpected<Error> bad(std::string_view text, std::string_view allowed) {
  return fail(0, fmt::format("'{}' is not {}", printable(text, 60), allowed));
}

Result<std::uint64_t> parse_range(std::string_view text, std::uint64_t least, std::uint64_t most,
                                  std::string_view allowed) {
  const auto value = parse_u64(text);
  if (!value || *value < least || *value > most) return bad(text, allowed);
  return *value;
}

template <class T>
using Word = std::pair<std::string_view, T>;

template <class T>
Result<T> parse_word(std::string_view text, std::span<const Word<T>> words) {
  std::string allowed;
  for (const auto& [word, value] : words) {
    if (text == word) return value;
    if (!allowed.empty()) allowed += &word == &words.back().first ? " or " : ", ";
    allowed += word;
  }
  return bad(text, allowed);
}

Result<void> check_swap(std::optional<std::uint64_t> memory, std::optional<std::uint64_t> swap) {
  if (!swap || !memory || *swap >= *memory) return {};
  return fail(0, fmt::format("--memory-swap is memory and swap together: {} bytes are less than "
                             "--memory's {}",
                             *swap, *memory));
}

// With another limit on memory there is as much swap as there was.
void keep_swap(const launch::ResourceLimits& current, launch::ResourceLimits& limits) {
  if (current.memory_swap_unlimited)
    limits.memory_swap_unlimited = true;
  else if (!limits.memory_swap_unlimited && current.memory_bytes && current.memory_swap_bytes)
    limits.memory_swap_bytes = saturating_add(
        *limits.memory_bytes, saturating_sub(*current.memory_swap_bytes, *current.memory_bytes));
}

constexpr std::string_view kMemoryRange =
    "a memory size from 4m to 4194304t (a number with an optional unit b, k, m, g or t)";

// "RTMIN", "RTMIN+3" (by which systemd is told to shut down), "RTMAX-2", as bash's kill has them.
std::optional<int> real_time_signal(std::string_view name) {
  const bool from_least = name.starts_with("RTMIN");
  if (!from_least && !name.starts_with("RTMAX")) return std::nullopt;
  const std::string_view distance = name.substr(5);
  if (distance.empty()) return from_least ? SIGRTMIN : SIGRTMAX;
  const auto steps = parse_u64(distance.substr(1));
  if (distance.front() != (from_least ? '+' : '-') || !steps ||
      *steps > static_cast<std::uint64_t>(SIGRTMAX - SIGRTMIN))
    return std::nullopt;
  return from_least ? SIGRTMIN + static_cast<int>(*steps) : SIGRTMAX - static_cast<int>(*steps);
}

}  // namespace

Result<double> parse_cpus(std::string_view text) {
  const auto value = parse_decimal(text);
  if (!value || *value < kMinCpus || *value > kMaxCpus)
    return bad(text, "a number of CPUs from 0.01 to 8192, such as 1.5");
  return *value;
}

Result<std::uint64_t> parse_cpu_period(std::string_view text) {
  return parse_range(text, 1000, 1000000, "a period from 1000 to 1000000 microseconds");
}

Result<std::uint64_t> parse_cpu_quota(std::string_view text) {
  return parse_range(text, 1000, 8192000000, "a quota from 1000 to 8192000000 microseconds");
}

Result<std::uint64_t> parse_cpu_shares(std::string_view text) {
  return parse_range(text, 2, 262144, "a number of shares from 2 to 262144");
}

Result<CpuSet> parse_cpuset(std::string_view text) {
  auto set = CpuSet::parse(text);
  if (!set || set->empty())
    return bad(text,
               fmt::format("a list of numbers and ascending ranges from 0 to {}, such as 0-2,4",
                           CpuSet::kMaxId));
  return *std::move(set);
}

Result<std::uint64_t> parse_memory(std::string_view text) {
  const auto bytes = parse_size(text);
  if (!bytes || *bytes < kMinMemoryBytes || *bytes > kMaxMemoryBytes)
    return bad(text, kMemoryRange);
  return *bytes;
}

Result<std::uint64_t> parse_pids_limit(std::string_view text) {
  return parse_range(text, 1, kMaxPids, "a number of processes from 1 to 4194304");
}

Result<view::CpuPolicy> parse_cpu_policy(std::string_view text) {
  using view::CpuPolicy;
  constexpr Word<CpuPolicy> kWords[] = {
      {"ceil", CpuPolicy::kCeil}, {"floor", CpuPolicy::kFloor}, {"cpuset", CpuPolicy::kCpuset}};
  return parse_word<CpuPolicy>(text, kWords);
}

Result<view::CpuIds> parse_cpu_ids(std::string_view text) {
  using view::CpuIds;
  constexpr Word<CpuIds> kWords[] = {
      {"auto", CpuIds::kAuto}, {"dense", CpuIds::kDense}, {"host", CpuIds::kHost}};
  return parse_word<CpuIds>(text, kWords);
}

Result<view::UptimePolicy> parse_uptime_policy(std::string_view text) {
  using view::UptimePolicy;
  constexpr Word<UptimePolicy> kWords[] = {{"auto", UptimePolicy::kAuto},
                                           {"container", UptimePolicy::kContainer},
                                           {"host", UptimePolicy::kHost}};
  return parse_word<UptimePolicy>(text, kWords);
}

Result<int> parse_signal(std::string_view text) {
  constexpr std::string_view kAllowed =
      "a signal: a name such as TERM, SIGTERM or RTMIN+3, or a number from 1 to 64";
  if (const auto number = parse_u64(text)) {
    if (*number < 1 || *number > static_cast<std::uint64_t>(SIGRTMAX)) return bad(text, kAllowed);
    return static_cast<int>(*number);
  }
  std::string name(text.substr(0, 16));
  std::transform(name.begin(), name.end(), name.begin(), [](char c) {
    return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  });
  if (name.starts_with("SIG")) name.erase(0, 3);
  for (int signal = 1; signal < SIGRTMIN; ++signal) {
    const char* known = sigabbrev_np(signal);
    if (known != nullptr && name == known) return signal;
  }
  if (const auto signal = real_time_signal(name)) return *signal;
  return bad(text, kAllowed);
}

Result<std::string> parse_name(std::string_view text) {
  if (!container::valid_id(text))
    return bad(text,
               "a name: 1 to 64 letters, digits, '_', '.' and '-', of which the first is a letter "
               "or digit");
  return std::string(text);
}

bool LimitOptions::any() const {
  return cpus || cpu_period_us || cpu_quota_us || limits.cpuset_cpus || limits.cpuset_mems ||
         limits.cpu_shares || limits.memory_bytes || limits.memory_swap_bytes ||
         limits.memory_swap_unlimited || limits.pids_limit;
}

void add_limit_options(CLI::App& command, LimitOptions& options) {
  LimitOptions* o = &options;
  const auto add = [&command](const std::string& names, const std::string& value_name, auto parse,
                              auto store, const std::string& description) {
    add_parsed(command, names, value_name, parse, store, description, {.group = "Limits"});
  };
  add(
      "--cpus", "N", parse_cpus, [o](double v) { o->cpus = v; },
      "CPU time, in CPUs: 0.5 is half of one (quota = N x 100 ms in each 100 ms)");
  add(
      "--cpuset-cpus,--cpuset", "LIST", parse_cpuset,
      [o](CpuSet v) { o->limits.cpuset_cpus = std::move(v); }, "CPUs it may run on: 0-2,4");
  add(
      "--cpuset-mems", "LIST", parse_cpuset,
      [o](CpuSet v) { o->limits.cpuset_mems = std::move(v); }, "memory nodes it may use: 0,1");
  add(
      "--cpu-quota", "US", parse_cpu_quota, [o](std::uint64_t v) { o->cpu_quota_us = v; },
      "CPU time in each period, in microseconds");
  add(
      "--cpu-period", "US", parse_cpu_period, [o](std::uint64_t v) { o->cpu_period_us = v; },
      "length of the period, in microseconds (100000)");
  add(
      "-c,--cpu-shares", "N", parse_cpu_shares, [o](std::uint64_t v) { o->limits.cpu_shares = v; },
      "weight against other containers (1024)");
  add(
      "-m,--memory", "SIZE", parse_memory, [o](std::uint64_t v) { o->limits.memory_bytes = v; },
      "memory: 256m, 1.5g");
  const auto parse_memory_swap = +[](std::string_view text) -> Result<std::int64_t> {
    if (text == "-1") return -1;
    auto bytes = parse_memory(text);
    if (!bytes) return bad(text, fmt::format("-1 (unlimited) or {}", kMemoryRange));
    return static_cast<std::int64_t>(*bytes);
  };
  add(
      "--memory-swap", "SIZE", parse_memory_swap,
      [o](std::int64_t v) {
        o->limits.memory_swap_unlimited = v < 0;
        o->limits.memory_swap_bytes.reset();
        if (v >= 0) o->limits.memory_swap_bytes = static_cast<std::uint64_t>(v);
      },
      "memory and swap together (run: twice --memory); -1: swap is not limited");
  add(
      "--pids-limit", "N", parse_pids_limit, [o](std::uint64_t v) { o->limits.pids_limit = v; },
      "processes and threads");
}

Result<void> check_limit_options(const LimitOptions& options) {
  if (options.cpus && (options.cpu_quota_us || options.cpu_period_us))
    return fail(0, "--cpus sets quota and period itself: give either --cpus or --cpu-quota");
  return check_swap(options.limits.memory_bytes, options.limits.memory_swap_bytes);
}

Result<launch::ResourceLimits> resource_limits(const LimitOptions& options,
                                               const launch::ResourceLimits& current) {
  UMWELT_CHECK(check_limit_options(options));
  launch::ResourceLimits limits = options.limits;
  if (options.cpus) {
    constexpr std::uint64_t kPeriodUs = 100000;
    limits.bandwidth = cgroup::Bandwidth{
        static_cast<std::uint64_t>(std::llround(*options.cpus * kPeriodUs)), kPeriodUs};
  } else if (options.cpu_quota_us || options.cpu_period_us) {
    cgroup::Bandwidth bandwidth = current.bandwidth.value_or(cgroup::Bandwidth{});
    if (options.cpu_period_us) bandwidth.period_us = *options.cpu_period_us;
    if (options.cpu_quota_us) bandwidth.quota_us = *options.cpu_quota_us;
    if (bandwidth.quota_us == 0)
      return fail(0, "--cpu-period limits nothing without --cpu-quota: give both");
    if (bandwidth.cpus() > kMaxCpus)
      return fail(0, "--cpu-quota: more than 8192 CPUs: give at most 8192 times the period");
    limits.bandwidth = bandwidth;
  }
  const auto memory = limits.memory_bytes ? limits.memory_bytes : current.memory_bytes;
  if (limits.memory_swap_bytes && !memory)
    return fail(0, "--memory-swap is memory and swap together: it needs --memory too");
  if (limits.memory_bytes && !limits.memory_swap_bytes) keep_swap(current, limits);
  UMWELT_CHECK(check_swap(memory, limits.memory_swap_bytes));
  return limits;
}

void add_policy_options(CLI::App& command, view::Policy& policy) {
  view::Policy* p = &policy;
  add_parsed(
      command, "--cpu-policy", "ceil|floor|cpuset", parse_cpu_policy,
      [p](view::CpuPolicy v) { p->cpu_policy = v; },
      "CPUs that a quota of 1.5 shows: ceil (2), floor (1) or cpuset (all allowed ones); ceil by "
      "default",
      {.group = "View"});
  add_parsed(command, "--cpu-ids", "auto|dense|host", parse_cpu_ids,
             [p](view::CpuIds v) { p->cpu_ids = v; },
             "numbers of the shown CPUs: dense (from 0), host (physical) or auto (those that "
             "sched_getaffinity gives); auto by default",
             {.group = "View"});
  add_parsed(command, "--uptime", "auto|container|host", parse_uptime_policy,
             [p](view::UptimePolicy v) { p->uptime = v; },
             "uptime that is shown: container, host or auto; auto by default", {.group = "View"});
}

}  // namespace umwelt::cli
