// SPDX-License-Identifier: Apache-2.0
#include "view/accounting.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/parse.h"

namespace umwelt::view {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kTick = 10'000'000;  // what /proc/stat counts in

constexpr std::uint64_t ShownCpuTime::*kColumns[] = {
    &ShownCpuTime::user_ns, &ShownCpuTime::nice_ns, &ShownCpuTime::system_ns,
    &ShownCpuTime::idle_ns, &ShownCpuTime::steal_ns};
constexpr std::uint64_t cgroup::CpuTime::*kBusy[] = {
    &cgroup::CpuTime::user_ns, &cgroup::CpuTime::nice_ns, &cgroup::CpuTime::system_ns};

constexpr std::size_t kMaxIoDevices = 1024;
constexpr std::uint64_t cgroup::DeviceIo::*kIoCounters[] = {
    &cgroup::DeviceIo::read_bytes,      &cgroup::DeviceIo::written_bytes,
    &cgroup::DeviceIo::discarded_bytes, &cgroup::DeviceIo::reads,
    &cgroup::DeviceIo::writes,          &cgroup::DeviceIo::discards};

void add(std::uint64_t& to, std::uint64_t value) { to = saturating_add(to, value); }

std::uint64_t busy(const cgroup::CpuTime& time) {
  return saturating_add(time.user_ns, saturating_add(time.nice_ns, time.system_ns));
}

// What was used between two samples. How time divides into kinds may have been found anew
// meanwhile, as by another daemon; what one kind lost then, the others gained, and nobody worked
// that.
cgroup::CpuTime grown(const cgroup::CpuTime& then, const cgroup::CpuTime& now) {
  cgroup::CpuTime time;
  for (const auto kind : kBusy) time.*kind = saturating_sub(now.*kind, then.*kind);
  const std::uint64_t sum = busy(time), worked = saturating_sub(busy(now), busy(then));
  if (sum > worked)
    for (const auto kind : kBusy) time.*kind = mul_div(time.*kind, worked, sum);
  return time;
}

// Whether a first sample has more than can have been used since the start.
bool used_before(const CpuSample& sample, std::uint64_t elapsed_ns) {
  const double most_ns = sample.cpus * static_cast<double>(saturating_add(elapsed_ns, kSecond));
  return sample.cpus > 0 && static_cast<double>(busy(sample.used)) > most_ns;
}

// CPUs that come take over the counters of those that went; what is left of these goes to the first
// shown CPU, and a CPU that comes without one that went starts at 0. So the sum stays what it was.
// But for idle time: /proc/stat rounds up that of each CPU, and of fewer CPUs the rounded numbers
// would sum to less. It is handed on in whole ticks; returns what the heirs were given too much.
std::map<unsigned, std::uint64_t> follow_the_set(CpuAccounting& state, const CpuSample& sample) {
  std::map<unsigned, std::uint64_t> rounding;
  std::map<unsigned, ShownCpuTime> counters;
  std::vector<unsigned> came;
  for (const auto& [id, physical] : sample.shown) {
    const auto found = state.by_id.find(id);
    if (found == state.by_id.end()) came.push_back(id);
    counters[id] = found == state.by_id.end() ? ShownCpuTime{} : found->second;
  }
  auto next_came = came.begin();
  const unsigned first = counters.begin()->first;
  for (const auto& [id, time] : state.by_id) {
    if (counters.contains(id)) continue;
    const unsigned heir = next_came == came.end() ? first : *next_came++;
    for (const auto column : kColumns) add(counters[heir].*column, time.*column);
    const std::uint64_t lack = (kTick - time.idle_ns % kTick) % kTick;
    add(counters[heir].idle_ns, lack);
    add(rounding[heir], lack);
  }
  state.by_id = std::move(counters);
  return rounding;
}

// Spreads `amount` over `room` as evenly as the room allows (water-fill), taking it off the room;
// returns what was placed where.
std::vector<std::uint64_t> spread(std::uint64_t amount, std::vector<std::uint64_t>& room) {
  std::vector<std::size_t> order(room.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return room[a] < room[b]; });
  std::vector<std::uint64_t> placed(room.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::uint64_t left = order.size() - i;
    const std::size_t cpu = order[i];
    placed[cpu] = std::min(room[cpu], (amount + left - 1) / left);
    room[cpu] -= placed[cpu];
    amount -= placed[cpu];
  }
  return placed;
}

// What each shown CPU worked by cpuacct's own count: (physical CPU, ns) pairs in any order.
std::vector<std::uint64_t> busy_by_cpu(const CpuAccounting& state, const CpuSample& sample) {
  std::map<unsigned, std::uint64_t> delta;
  for (const auto& [physical, ns] : sample.used.per_cpu) delta[physical] = ns;
  for (const auto& [physical, ns] : state.used.per_cpu)
    if (auto found = delta.find(physical); found != delta.end())
      found->second = saturating_sub(found->second, ns);
  std::vector<std::uint64_t> result;
  result.reserve(sample.shown.size());
  for (const auto& cpu : sample.shown) {
    const auto found = delta.find(cpu.second);
    result.push_back(found == delta.end() ? 0 : found->second);
  }
  return result;
}

// Places `amount` of busy time, where it was worked as far as that is known and there is room.
std::vector<std::uint64_t> place(std::uint64_t amount, std::vector<std::uint64_t> known,
                                 std::vector<std::uint64_t>& room) {
  std::uint64_t sum = 0;
  for (const std::uint64_t ns : known) add(sum, ns);
  std::uint64_t left = amount;
  for (std::size_t i = 0; i < room.size(); ++i) {
    if (sum > amount) known[i] = mul_div(known[i], amount, sum);
    known[i] = std::min({known[i], room[i], left});
    room[i] -= known[i];
    left -= known[i];
  }
  const std::vector<std::uint64_t> rest = spread(left, room);
  for (std::size_t i = 0; i < room.size(); ++i) known[i] += rest[i];
  return known;
}

// Adds `ns` of busy time to a CPU, its kinds in the proportion of what is left to place.
void add_busy(ShownCpuTime& cpu, std::uint64_t ns, cgroup::CpuTime& left) {
  const std::uint64_t total = busy(left);
  if (ns == 0 || total == 0) return;
  std::uint64_t kinds[std::size(kBusy)] = {};
  std::uint64_t rest = ns;
  for (std::size_t i = 0; i < std::size(kBusy); ++i) {
    kinds[i] = mul_div(left.*kBusy[i], ns, total);
    rest -= kinds[i];
  }
  for (std::size_t i = 0; i < std::size(kBusy); ++i) {
    const std::uint64_t rounding = std::min(rest, left.*kBusy[i] - kinds[i]);
    rest -= rounding;
    left.*kBusy[i] -= kinds[i] + rounding;
    add(cpu.*kColumns[i], kinds[i] + rounding);
  }
}

// What could not be placed within a second of CPU time will not be: the CPUs that are shown are
// fewer than the container uses.
void limit_pending(cgroup::CpuTime& pending, std::uint64_t bound) {
  const std::uint64_t total = busy(pending);
  if (total <= bound) return;
  for (const auto kind : kBusy) pending.*kind = mul_div(pending.*kind, bound, total);
}

// Of an interval that nobody sampled.
double average_active(const LoadAccounting& state, const LoadSample& sample,
                      std::uint64_t elapsed_ns) {
  const auto share = [&](std::uint64_t now_ns, std::uint64_t then_ns) {
    return static_cast<double>(saturating_sub(now_ns, then_ns)) / static_cast<double>(elapsed_ns);
  };
  const double used = share(sample.busy_ns, state.busy_ns);
  const double active = static_cast<double>(sample.active);
  if (!sample.waited_ns) {
    // With all the CPU time that it may have, tasks were waiting for more.
    constexpr double kSaturated = 0.9;
    const bool saturated = sample.cpus > 0 && used >= kSaturated * sample.cpus;
    return saturated ? std::max(used, active) : used;
  }
  const double waited = std::min(share(*sample.waited_ns, state.waited_ns), 1.0);
  return std::max(used + waited, used + waited * (active - used));
}

}  // namespace

CpuAccounting next(CpuAccounting previous, const CpuSample& sample,
                   std::uint64_t start_boottime_ns) {
  CpuAccounting state = std::move(previous);
  if (sample.shown.empty()) return state;
  const std::uint64_t since = state.boottime_ns != 0 ? state.boottime_ns : start_boottime_ns;
  const std::uint64_t elapsed = saturating_sub(sample.boottime_ns, since);
  if (state.boottime_ns == 0 && used_before(sample, elapsed)) {
    state.used = state.before = sample.used;
    state.before.per_cpu.clear();
  }
  const std::map<unsigned, std::uint64_t> rounding = follow_the_set(state, sample);

  cgroup::CpuTime& left = state.pending;
  const cgroup::CpuTime used = grown(state.used, sample.used);
  for (const auto kind : kBusy) add(left.*kind, used.*kind);
  std::vector<std::uint64_t> room(sample.shown.size(), elapsed);
  const std::uint64_t capacity = mul_div(elapsed, room.size(), 1);
  const std::vector<std::uint64_t> placed =
      place(std::min(busy(left), capacity), busy_by_cpu(state, sample), room);
  const std::vector<std::uint64_t> stolen =
      spread(saturating_sub(sample.used.throttled_ns, state.used.throttled_ns), room);
  for (std::size_t i = 0; i < room.size(); ++i) {
    const unsigned id = sample.shown[i].first;
    ShownCpuTime& cpu = state.by_id[id];
    add_busy(cpu, placed[i], left);
    add(cpu.steal_ns, stolen[i]);
    const auto ahead = rounding.find(id);
    add(cpu.idle_ns, saturating_sub(room[i], ahead == rounding.end() ? 0 : ahead->second));
  }
  limit_pending(left, kSecond * room.size());

  if (sample.processes) {
    add(state.forks, saturating_sub(*sample.processes, state.processes));
    state.processes = *sample.processes;
  }
  state.boottime_ns = std::max(sample.boottime_ns, state.boottime_ns);
  state.used = sample.used;
  return state;
}

LoadAccounting next(LoadAccounting previous, const LoadSample& sample,
                    std::uint64_t start_boottime_ns) {
  // The kernel counts the active tasks every 5 s (LOAD_FREQ); so long the present count stands for
  // the past.
  constexpr std::uint64_t kSampled = 5 * kSecond;
  LoadAccounting state = previous;
  const std::uint64_t since = state.boottime_ns != 0 ? state.boottime_ns : start_boottime_ns;
  const std::uint64_t elapsed = saturating_sub(sample.boottime_ns, since);
  if (state.boottime_ns == 0 && sample.before_ns > 0) {
    state.busy_ns = sample.before_ns;
    state.waited_ns = sample.waited_ns.value_or(0);  // before or since: nobody knows
  }
  const auto advance = [&](std::uint64_t interval_ns, double active) {
    const double seconds = static_cast<double>(interval_ns) / static_cast<double>(kSecond);
    const auto step = [&](double& load, double period_s) {
      const double kept = std::exp(-seconds / period_s);
      load = load * kept + active * (1 - kept);
    };
    step(state.load1, 60);
    step(state.load5, 300);
    step(state.load15, 900);
  };
  const double active = static_cast<double>(sample.active);
  if (elapsed > kSampled) {
    advance(elapsed - kSampled, average_active(state, sample, elapsed));
  }
  advance(std::min(elapsed, kSampled), active);
  state.boottime_ns = std::max(sample.boottime_ns, state.boottime_ns);
  state.busy_ns = sample.busy_ns;
  state.waited_ns = sample.waited_ns.value_or(0);
  state.last_pid = sample.last_pid;
  state.running = sample.running;
  state.total = sample.total;
  return state;
}

IoAccounting next(IoAccounting previous, const std::vector<cgroup::DeviceIo>& sample) {
  IoAccounting state = std::move(previous);
  std::map<std::pair<unsigned, unsigned>, cgroup::DeviceIo> now;
  for (const cgroup::DeviceIo& io : sample) now[{io.major, io.minor}] = io;
  // Devices come and go; a container that makes many must not make this grow for ever.
  if (state.size() > kMaxIoDevices)
    std::erase_if(state, [&](const auto& entry) { return !now.contains(entry.first); });
  for (auto& [device, counted] : state) now.try_emplace(device);
  for (const auto& [device, io] : now) {
    CountedIo& counted = state[device];
    for (const auto counter : kIoCounters)
      add(counted.lost.*counter, saturating_sub(counted.last.*counter, io.*counter));
    counted.last = io;
  }
  return state;
}

std::vector<cgroup::DeviceIo> shown_io(const IoAccounting& accounting) {
  std::vector<cgroup::DeviceIo> shown;
  shown.reserve(accounting.size());
  for (const auto& [device, counted] : accounting) {
    cgroup::DeviceIo& io = shown.emplace_back(counted.last);
    io.major = device.first;
    io.minor = device.second;
    for (const auto counter : kIoCounters) add(io.*counter, counted.lost.*counter);
  }
  return shown;
}

}  // namespace umwelt::view
