// SPDX-License-Identifier: Apache-2.0
// Every table of /proc, of one and the same text, shown to a container with some of the CPUs and to
// one without limits. A served table must be one that its own parser takes.
#include "host/parse.h"
#include "targets.h"
#include "view/files.h"

namespace {

using namespace umwelt;

template <class T>
std::shared_ptr<const T> shared(Result<T> value) {
  return value ? std::make_shared<const T>(*std::move(value)) : nullptr;
}

host::Facts facts_of(std::string_view text) {
  auto cpus = std::make_shared<host::Cpus>();
  cpus->online = cpus->possible = cpus->present = CpuSet::range(0, 7);
  host::Facts facts;
  facts.cpus = std::move(cpus);
  facts.meminfo = std::make_shared<host::Meminfo>(
      host::Meminfo{{{"MemTotal", 1ULL << 30, true}, {"MemFree", 1ULL << 29, true}}});
  facts.vmstat = shared(host::parse_vmstat(text));
  facts.diskstats = shared(host::parse_diskstats(text));
  facts.partitions = shared(host::parse_partitions(text));
  facts.interrupts = shared(host::parse_per_cpu_table(text));
  facts.softirqs = facts.interrupts;
  facts.schedstat = shared(host::parse_schedstat(text));
  facts.zoneinfo = shared(host::parse_zoneinfo(text));
  facts.buddyinfo = shared(host::parse_buddyinfo(text));
  facts.slabinfo = shared(host::parse_slabinfo(text));
  facts.controllers = shared(host::parse_cgroups(text));
  return facts;
}

void check(const view::Resources& r) {
  FUZZ_CHECK(host::parse_diskstats(view::render_diskstats(r)));
  FUZZ_CHECK(host::parse_partitions(view::render_partitions(r)));
  FUZZ_CHECK(host::parse_buddyinfo(view::render_buddyinfo(r)));
  FUZZ_CHECK(host::parse_cgroups(view::render_cgroups(r)));
  (void)view::render_slabinfo(r);
  (void)view::render_zoneinfo(r);
  (void)view::render_schedstat(r);
  if (r.host.vmstat) FUZZ_CHECK(host::parse_vmstat(view::render_vmstat(r)));
  if (!r.host.interrupts || !r.identity.limited) return;
  const auto table = host::parse_per_cpu_table(view::render_interrupts(r));
  FUZZ_CHECK(table && table->cpus.size() == r.cpus.shown.size());
}

}  // namespace

int fuzz_view_tables(const std::uint8_t* data, std::size_t size) {
  const host::Facts facts = facts_of(fuzz::text_of(data, size));
  view::Identity identity;
  identity.policy.cpu_ids = view::CpuIds::kDense;
  cgroup::State state;
  state.limits.cpus = *CpuSet::parse("1,4-5");
  state.limits.memory_max_bytes = 1ULL << 28;
  state.memory.emplace();
  state.io.emplace().push_back({.major = 254, .minor = 0, .read_bytes = 1, .reads = 1});
  check(view::resources(facts, state, identity, {}));
  identity.limited = false;
  check(view::resources(facts, state, identity, {}));
  return 0;
}
