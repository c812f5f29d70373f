// SPDX-License-Identifier: Apache-2.0
#include "view/topology.h"

#include <algorithm>
#include <map>

namespace umwelt::view {
namespace {

const host::CpuTopology* find(const std::vector<host::CpuTopology>& all, unsigned physical) {
  const auto found = std::lower_bound(
      all.begin(), all.end(), physical,
      [](const host::CpuTopology& cpu, unsigned wanted) { return cpu.id < wanted; });
  return found != all.end() && found->id == physical ? &*found : nullptr;
}

unsigned lowest(const CpuSet& set, unsigned otherwise) {
  const std::vector<unsigned> ids = set.first(1).ids();
  return ids.empty() ? otherwise : ids.front();
}

struct Package {
  unsigned number = 0, siblings = 0;
  std::map<std::int64_t, unsigned> dies;  // die_id -> number
  std::map<unsigned, unsigned> cores;     // lowest physical thread -> number
};

}  // namespace

std::vector<ShownTopology> shown_topology(const Resources& r) {
  static const std::vector<host::CpuTopology> kNone;
  const auto& all = r.host.cpus ? r.host.cpus->topology : kNone;
  // Keyed by the lowest CPU of the package: physical_package_id is -1 where firmware is silent.
  std::map<unsigned, Package> packages;
  std::vector<ShownTopology> result(r.cpus.shown.size());
  std::vector<Package*> package_of(result.size());
  for (std::size_t i = 0; i < result.size(); ++i) {
    const unsigned physical = r.cpus.shown[i].physical;
    const host::CpuTopology* cpu = find(all, physical);
    const unsigned key = cpu ? lowest(cpu->package_cpus, physical) : physical;
    const auto [found, fresh] = packages.try_emplace(key);
    Package& package = found->second;
    if (fresh) package.number = static_cast<unsigned>(packages.size()) - 1;
    ++package.siblings;
    const unsigned thread = cpu ? lowest(cpu->thread_siblings, physical) : physical;
    const std::int64_t die_id = cpu ? cpu->die_id.value_or(0) : 0;
    result[i].package = package.number;
    result[i].core = package.cores.try_emplace(thread, static_cast<unsigned>(package.cores.size()))
                         .first->second;
    result[i].die =
        package.dies.try_emplace(die_id, static_cast<unsigned>(package.dies.size())).first->second;
    package_of[i] = &package;
  }
  for (std::size_t i = 0; i < result.size(); ++i) {
    result[i].siblings = package_of[i]->siblings;
    result[i].cores = static_cast<unsigned>(package_of[i]->cores.size());
  }
  return result;
}

}  // namespace umwelt::view
