// SPDX-License-Identifier: Apache-2.0
// From the kernel's text to every served file. The input has sections between lines "--":
// /proc/cpuinfo, /proc/meminfo, /proc/stat, /proc/swaps, memory.stat, and numbers (one a line) for
// the limits and the accounting.
#include <array>
#include <string>
#include <vector>

#include "base/parse.h"
#include "cgroup/parse.h"
#include "host/parse.h"
#include "targets.h"
#include "view/files.h"

namespace {

using namespace umwelt;

std::array<std::string_view, 6> sections_of(std::string_view text) {
  std::array<std::string_view, 6> sections;
  for (std::string_view& section : sections) {
    const std::size_t end = text.find("\n--\n");
    section = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 4);
  }
  return sections;
}

class Numbers {
 public:
  explicit Numbers(std::string_view text) : rest_(text) {}
  std::uint64_t next() {
    const auto line = next_line(rest_);
    return line ? parse_u64(*line).value_or(0) : 0;
  }
  std::optional<std::uint64_t> optional() {  // 0: none
    const std::uint64_t value = next();
    return value == 0 ? std::nullopt : std::optional(value);
  }

 private:
  std::string_view rest_;
};

template <class T>
std::shared_ptr<const T> shared(Result<T> value) {
  return std::make_shared<const T>(value ? *std::move(value) : T{});
}

host::Facts facts_of(const std::array<std::string_view, 6>& sections) {
  auto cpus = std::make_shared<host::Cpus>();
  if (auto cpuinfo = host::parse_cpuinfo(sections[0])) cpus->cpuinfo = *std::move(cpuinfo);
  for (const auto& block : cpus->cpuinfo.blocks)
    if (block.processor <= CpuSet::kMaxId) cpus->online.set(block.processor);
  if (cpus->online.empty()) cpus->online.set(0);
  cpus->possible = cpus->present = cpus->online;
  host::Facts facts;
  facts.cpus = cpus;
  facts.meminfo = shared(host::parse_meminfo(sections[1]));
  facts.stat = shared(host::parse_stat(sections[2]));
  facts.swaps = shared(host::parse_swaps(sections[3]));
  facts.uptime = host::Uptime{};
  facts.loadavg = host::Loadavg{};
  return facts;
}

cgroup::State state_of(const host::Facts& facts, std::string_view memory_stat, Numbers& numbers) {
  cgroup::State state;
  state.limits.cpus = facts.cpus->online.first(static_cast<unsigned>(numbers.next() % 9000 + 1));
  if (const auto quota = numbers.optional())
    state.limits.bandwidth = cgroup::Bandwidth{*quota, numbers.next() % 1000000 + 1};
  state.limits.memory_max_bytes = numbers.optional();
  state.limits.swap_max_bytes = numbers.optional();
  state.limits.pids_max = numbers.optional();
  cgroup::Memory& memory = state.memory.emplace();
  if (auto stat = cgroup::parse_memory_stat_v2(memory_stat)) memory.stat = *std::move(stat);
  memory.usage_bytes = numbers.next();
  memory.swap_usage_bytes = memory.limit_swap_usage_bytes = numbers.next();
  memory.limit_usage_bytes = numbers.next();
  memory.limit_inactive_file = numbers.next();
  memory.above_available_bytes = numbers.next();
  cgroup::CpuTime& time = state.cpu_time.emplace();
  time.user_ns = numbers.next();
  time.system_ns = numbers.next();
  time.throttled_ns = numbers.next();
  state.tasks.emplace().total = numbers.next();
  return state;
}

void check_meminfo(const std::string& text) {
  const auto meminfo = host::parse_meminfo(text);
  FUZZ_CHECK(meminfo);
  const auto total = meminfo->get("MemTotal"), available = meminfo->get("MemAvailable"),
             free = meminfo->get("MemFree");
  if (total && available) FUZZ_CHECK(*available <= *total);
  if (free && available) FUZZ_CHECK(*free <= *available);
}

}  // namespace

int fuzz_view(const std::uint8_t* data, std::size_t size) {
  const auto sections = sections_of(fuzz::text_of(data, size));
  Numbers numbers(sections[5]);
  const host::Facts facts = facts_of(sections);
  const cgroup::State state = state_of(facts, sections[4], numbers);

  view::Identity identity;
  identity.id = "fuzz";
  identity.start_boottime_ns = numbers.next();
  identity.policy.cpu_policy = static_cast<view::CpuPolicy>(numbers.next() % 3);
  identity.policy.cpu_ids = static_cast<view::CpuIds>(numbers.next() % 3);
  const std::uint64_t now = numbers.next();

  const view::Cpus cpus = view::choose_cpus(*facts.cpus, state.limits, identity.policy);
  FUZZ_CHECK(cpus.count() >= 1);
  view::CpuSample sample;
  sample.boottime_ns = now;
  sample.used = *state.cpu_time;
  for (const view::ShownCpu& cpu : cpus.shown) sample.shown.emplace_back(cpu.id, cpu.physical);
  const auto accounting = view::next(view::CpuAccounting{}, sample, identity.start_boottime_ns);
  const auto load =
      view::next(view::LoadAccounting{}, view::LoadSample{now, numbers.next(), 1, 1, 1},
                 identity.start_boottime_ns);

  view::Moment moment;
  moment.boottime_ns = now;
  moment.cpu = &accounting;
  moment.load = &load;
  const view::Resources resources = view::resources(facts, state, identity, moment);
  for (const view::File& file : view::files()) {
    const std::string text = file.render(resources);
    if (file.path == "proc/meminfo" && resources.memory.limited) check_meminfo(text);
    if (file.path == "proc/stat") FUZZ_CHECK(host::parse_stat(text));
    if (file.path == "proc/cpuinfo") FUZZ_CHECK(host::parse_cpuinfo(text));
  }
  return 0;
}
