// SPDX-License-Identifier: Apache-2.0
#include "view/resources.h"

#include <algorithm>

#include "base/parse.h"

namespace umwelt::view {
namespace {

constexpr std::uint64_t kNsPerSecond = 1'000'000'000;

unsigned quota_count(const cgroup::Bandwidth& bandwidth, CpuPolicy policy) {
  const std::uint64_t period = std::max<std::uint64_t>(bandwidth.period_us, 1);
  std::uint64_t cpus = bandwidth.quota_us / period;
  if (policy == CpuPolicy::kCeil && bandwidth.quota_us % period != 0) ++cpus;
  return static_cast<unsigned>(std::clamp<std::uint64_t>(cpus, 1, CpuSet::kMaxId + 1));
}

CpuSet ids_of(const std::vector<ShownCpu>& shown) {
  CpuSet ids;
  for (const ShownCpu& cpu : shown) ids.set(cpu.id);
  return ids;
}

// What a container without limits has: the host.
cgroup::Limits no_limits(const host::Cpus& host) {
  cgroup::Limits limits;
  limits.cpus = host.online;
  return limits;
}

using S = cgroup::MemoryStat;
constexpr std::uint64_t S::*kCounts[] = {
    &S::anon,        &S::file,          &S::file_mapped, &S::file_dirty,    &S::file_writeback,
    &S::shmem,       &S::inactive_anon, &S::active_anon, &S::inactive_file, &S::active_file,
    &S::unevictable, &S::anon_thp,      &S::swapcached};
constexpr std::optional<std::uint64_t> S::*kOptionalCounts[] = {
    &S::file_thp, &S::shmem_thp, &S::kernel_stack, &S::pagetables,       &S::sec_pagetables,
    &S::percpu,   &S::sock,      &S::vmalloc,      &S::slab_reclaimable, &S::slab_unreclaimable,
    &S::zswap,    &S::kernel};

// Whole KiB, which meminfo counts in, so that sums are exact (slab is counted in bytes), and no
// part above its whole: the kernel's counts are read one after the other, and a limit may just
// have been lowered below the usage.
void clip(S& stat, std::uint64_t used) {
  for (const auto count : kCounts) stat.*count = std::min(stat.*count, used) / 1024 * 1024;
  for (const auto count : kOptionalCounts)
    if (stat.*count) stat.*count = std::min(*(stat.*count), used) / 1024 * 1024;
  const auto at_most = [](std::uint64_t& value, std::uint64_t bound) {
    value = std::min(value, bound);
  };
  const auto optional_at_most = [](std::optional<std::uint64_t>& value, std::uint64_t bound) {
    if (value) value = std::min(*value, bound);
  };
  for (auto* part : {&stat.file_mapped, &stat.file_dirty, &stat.file_writeback})
    at_most(*part, stat.file);
  at_most(stat.shmem, stat.file);
  optional_at_most(stat.shmem_thp, stat.shmem);
  optional_at_most(stat.file_thp, stat.file - stat.shmem);
  optional_at_most(stat.slab_reclaimable, used - stat.file);
  const std::uint64_t rest = used - stat.file - stat.slab_reclaimable.value_or(0);
  optional_at_most(stat.slab_unreclaimable, rest);
  at_most(stat.anon, rest);
  at_most(stat.anon_thp, stat.anon);
  std::uint64_t lru = used;
  for (auto* list : {&stat.inactive_anon, &stat.active_anon, &stat.inactive_file, &stat.active_file,
                     &stat.unevictable}) {
    at_most(*list, lru);
    lru -= *list;
  }
}

std::uint64_t host_value(const host::Facts& facts, std::string_view key) {
  return facts.meminfo ? facts.meminfo->get(key).value_or(0) : 0;
}

// What the nodes that a container is restricted to have; all of the host's where they say nothing.
struct NodeFigures {
  std::uint64_t total = 0, free = 0, available = 0;
};

NodeFigures figures_of_nodes(const host::Facts& facts, const Nodes& nodes) {
  NodeFigures sum;
  if (nodes.restricted && facts.node_meminfo) {
    for (const host::NodeMeminfo& node : *facts.node_meminfo) {
      if (!nodes.has_memory.test(node.id)) continue;
      const auto value = [&](std::string_view key) { return node.meminfo.get(key).value_or(0); };
      sum.total += value("MemTotal");
      sum.free += value("MemFree");
      sum.available += value("MemFree") + value("Active(file)") + value("Inactive(file)") +
                       value("SReclaimable");
    }
  }
  const std::uint64_t host_total = host_value(facts, "MemTotal");
  if (sum.total == 0 || sum.total >= host_total)
    return {host_total, host_value(facts, "MemFree"), host_value(facts, "MemAvailable")};
  sum.free = std::min(sum.free, sum.total);
  sum.available =
      std::clamp(std::min(sum.available, host_value(facts, "MemAvailable")), sum.free, sum.total);
  return sum;
}

Memory memory(const host::Facts& facts, const cgroup::Limits& limits, const Nodes& nodes,
              const cgroup::Memory& used) {
  Memory memory;
  const NodeFigures whole = figures_of_nodes(facts, nodes);
  const std::uint64_t host_swap = host_value(facts, "SwapTotal");
  memory.usage = used.usage_bytes;
  memory.stat = used.stat;
  if (limits.memory_max_bytes && *limits.memory_max_bytes < whole.total) {
    memory.limited = true;
    memory.total = *limits.memory_max_bytes / 1024 * 1024;
    memory.free = saturating_sub(memory.total, used.limit_usage_bytes) / 1024 * 1024;
    const std::uint64_t reclaimable =
        saturating_add(used.limit_inactive_file,
                       saturating_add(used.limit_active_file, used.limit_slab_reclaimable));
    memory.available =
        std::min(saturating_sub(memory.total, saturating_sub(used.limit_usage_bytes, reclaimable)),
                 used.above_available_bytes) /
        1024 * 1024;
    memory.free = std::min(memory.free, memory.available);
    clip(memory.stat, memory.total - memory.free);
  } else {
    memory.limited = whole.total < host_value(facts, "MemTotal");
    memory.total = whole.total;
    memory.free = whole.free;
    memory.available = whole.available;
    if (memory.limited) clip(memory.stat, memory.total - memory.free);
  }
  if (limits.swap_max_bytes && *limits.swap_max_bytes < host_swap) {
    memory.swap_limited = true;
    memory.swap_total = *limits.swap_max_bytes / 1024 * 1024;
    memory.swap_free = saturating_sub(memory.swap_total, used.limit_swap_usage_bytes) / 1024 * 1024;
  } else {
    memory.swap_total = host_swap;
    memory.swap_free = host_value(facts, "SwapFree");
  }
  return memory;
}

std::vector<HugePages> huge_pages(const cgroup::Limits& limits, const cgroup::State& state) {
  std::vector<HugePages> sizes;
  for (const cgroup::HugetlbLimit& limit : limits.hugetlb) {
    HugePages pages{limit.page_bytes, limit.max_bytes, 0};
    if (state.hugetlb)
      for (const cgroup::HugetlbUsage& usage : *state.hugetlb)
        if (usage.page_bytes == limit.page_bytes) pages.usage = usage.usage_bytes;
    sizes.push_back(pages);
  }
  return sizes;
}

std::vector<ShownCpuTime> cpu_times(const Cpus& cpus, const CpuAccounting& accounting) {
  std::vector<ShownCpuTime> times;
  times.reserve(cpus.shown.size());
  for (const ShownCpu& cpu : cpus.shown) {
    const auto found = accounting.by_id.find(cpu.id);
    times.push_back(found == accounting.by_id.end() ? ShownCpuTime{} : found->second);
  }
  return times;
}

// Who reads is a running task, too, by the kernel's count, from which programs subtract themselves
// (procps 3 without a look at whether there is any). While we count, it sleeps and waits for us.
std::uint64_t with_the_reader(std::uint64_t running, std::uint64_t total) {
  return std::min(running + 1, total);
}

Uptime uptime(const host::Facts& facts, const Identity& identity, const Moment& moment,
              const std::vector<ShownCpuTime>& times) {
  if (!identity.limited) {
    return {facts.uptime ? facts.uptime->uptime_ns : moment.boottime_ns,
            facts.uptime ? facts.uptime->idle_ns : 0,
            facts.stat ? static_cast<std::int64_t>(facts.stat->btime) : 0};
  }
  Uptime uptime;
  if (identity.policy.uptime == UptimePolicy::kHost)
    uptime.uptime_ns = facts.uptime ? facts.uptime->uptime_ns : moment.boottime_ns;
  else
    uptime.uptime_ns = saturating_sub(moment.boottime_ns, identity.start_boottime_ns);
  if (has_own_btime(identity))
    uptime.btime_s = identity.start_realtime_s;
  else
    uptime.btime_s = facts.stat
                         ? static_cast<std::int64_t>(facts.stat->btime)
                         : identity.start_realtime_s -
                               static_cast<std::int64_t>(identity.start_boottime_ns / kNsPerSecond);
  for (const ShownCpuTime& time : times)
    uptime.idle_ns = saturating_add(uptime.idle_ns, time.idle_ns);
  return uptime;
}

}  // namespace

const ShownCpu* Cpus::by_id(unsigned id) const {
  const auto found =
      std::lower_bound(shown.begin(), shown.end(), id,
                       [](const ShownCpu& cpu, unsigned wanted) { return cpu.id < wanted; });
  return found != shown.end() && found->id == id ? &*found : nullptr;
}

CpuSet Cpus::translate(const CpuSet& physical) const {
  CpuSet result;
  for (const ShownCpu& cpu : shown)
    if (physical.test(cpu.physical)) result.set(cpu.id);
  return result;
}

Cpus choose_cpus(const host::Cpus& host, const cgroup::Limits& limits, const Policy& policy) {
  Cpus cpus;
  cpus.allowed = limits.cpus & host.online;
  if (cpus.allowed.empty()) cpus.allowed = host.online;
  if (cpus.allowed.empty()) cpus.allowed.set(0);
  cpus.bandwidth = limits.bandwidth;
  cpus.kernel_max = host.kernel_max;
  cpus.dense = policy.cpu_ids == CpuIds::kDense ||
               (policy.cpu_ids == CpuIds::kAuto && policy.affinity_virtualised);

  unsigned count = cpus.allowed.count();
  if (limits.bandwidth && policy.cpu_policy != CpuPolicy::kCpuset)
    count = std::min(count, quota_count(*limits.bandwidth, policy.cpu_policy));
  cpus.shown.reserve(count);
  for (const unsigned physical : cpus.allowed.first(count).ids()) {
    const unsigned dense_id = static_cast<unsigned>(cpus.shown.size());
    cpus.shown.push_back({cpus.dense ? dense_id : physical, physical});
  }

  cpus.online = ids_of(cpus.shown);
  cpus.isolated = cpus.translate(host.isolated);
  if (cpus.dense) {
    cpus.present = cpus.possible = cpus.enabled = cpus.online;
  } else {
    cpus.present = host.present | cpus.online;
    cpus.possible = host.possible | cpus.online;
    cpus.enabled = host.enabled.value_or(cpus.present);
  }
  cpus.offline = cpus.possible - cpus.online;
  return cpus;
}

Nodes choose_nodes(const host::Cpus& host, const CpuSet& mems, const Cpus& cpus) {
  Nodes nodes;
  CpuSet with_memory;
  for (const host::Node& node : host.nodes) {
    nodes.host_online.set(node.id);
    if (node.memory_bytes > 0) with_memory.set(node.id);
    for (const ShownCpu& cpu : cpus.shown)
      if (node.cpus.test(cpu.physical)) nodes.has_cpu.set(node.id);
  }
  nodes.has_memory = mems.empty() ? with_memory : with_memory & mems;
  if (nodes.has_memory.empty()) nodes.has_memory = with_memory;
  nodes.restricted = nodes.has_memory != with_memory;
  nodes.online = nodes.has_memory | nodes.has_cpu;
  for (const host::Node& node : host.nodes)
    if (nodes.has_memory.test(node.id)) nodes.memory.push_back({node.id, node.memory_bytes});
  nodes.possible = host.nodes_possible;
  nodes.has_normal_memory = host.nodes_with_normal_memory & nodes.has_memory;
  nodes.has_generic_initiator = host.nodes_with_generic_initiator & nodes.online;
  return nodes;
}

bool has_own_btime(const Identity& identity) {
  if (!identity.limited) return false;
  return identity.policy.uptime == UptimePolicy::kContainer ||
         (identity.policy.uptime == UptimePolicy::kAuto && identity.time_namespace);
}

Resources resources(host::Facts facts, const cgroup::State& state, const Identity& identity,
                    const Moment& moment) {
  static const host::Cpus kNoCpus;
  const host::Cpus& host_cpus = facts.cpus ? *facts.cpus : kNoCpus;
  const cgroup::Limits limits = identity.limited ? state.limits : no_limits(host_cpus);
  Policy policy = identity.policy;
  if (!identity.limited) policy.cpu_ids = CpuIds::kHost;

  Resources r;
  r.identity = identity;
  r.cpus = choose_cpus(host_cpus, limits, policy);
  r.nodes = choose_nodes(host_cpus, limits.mems, r.cpus);
  if (!identity.limited) r.nodes.online = r.nodes.host_online;
  r.memory = memory(facts, limits, r.nodes, state.memory.value_or(cgroup::Memory{}));
  r.huge_pages = huge_pages(limits, state);
  r.pressure = state.pressure.value_or(cgroup::Pressure{});
  r.pids_max = limits.pids_max;
  r.swap_max = limits.swap_max_bytes;
  if (r.memory.limited)
    r.memory_max = std::min(limits.memory_max_bytes.value_or(r.memory.total), r.memory.total);
  if (moment.cpu != nullptr) r.cpu_times = cpu_times(r.cpus, *moment.cpu);
  r.uptime = uptime(facts, identity, moment, r.cpu_times);
  if (!identity.limited && facts.loadavg) {
    r.load = {facts.loadavg->load1,   facts.loadavg->load5, facts.loadavg->load15,
              facts.loadavg->running, facts.loadavg->total, facts.loadavg->last_pid};
  } else if (moment.load != nullptr) {
    const LoadAccounting& load = *moment.load;
    r.load = {load.load1, load.load5,   load.load15, with_the_reader(load.running, load.total),
              load.total, load.last_pid};
  }
  if (state.tasks) {
    r.processes = std::max(state.tasks->processes, moment.cpu != nullptr ? moment.cpu->forks : 0);
    r.procs_running = with_the_reader(state.tasks->running, state.tasks->total);
    r.procs_blocked = state.tasks->uninterruptible;
  }
  if (state.io) r.io = *state.io;
  if (state.memory_events) r.memory_events = *state.memory_events;
  r.host = std::move(facts);
  return r;
}

}  // namespace umwelt::view
