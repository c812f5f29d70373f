// SPDX-License-Identifier: Apache-2.0
#include "host/cpus.h"

#include <string>

#include "base/file.h"
#include "base/parse.h"
#include "host/parse.h"

namespace umwelt::host {
namespace {

constexpr char kCpuDirectory[] = "sys/devices/system/cpu/";
constexpr char kNodeDirectory[] = "sys/devices/system/node/";

// Of a CPU that just went away, and on architectures without the file, there is nothing to read.
std::optional<std::string> read_sysfs(int root, const std::string& path) {
  auto text = read_optional_at(root, path);
  return text ? std::move(*text) : std::nullopt;
}

std::optional<CpuSet> read_set(int root, const std::string& path) {
  const auto text = read_sysfs(root, path);
  return text ? CpuSet::parse(*text) : std::nullopt;
}

std::optional<std::int64_t> read_number(int root, const std::string& path) {
  const auto text = read_sysfs(root, path);
  return text ? parse_i64(trim(*text)) : std::nullopt;
}

// Kernels before 5.1 have the older of two names.
CpuSet read_set_of_either(int root, const std::string& path, const std::string& old_path) {
  if (auto set = read_set(root, path)) return *std::move(set);
  return read_set(root, old_path).value_or(CpuSet());
}

CpuTopology read_topology(int root, unsigned id) {
  const std::string directory = kCpuDirectory + ("cpu" + std::to_string(id)) + "/topology/";
  CpuTopology topology;
  topology.id = id;
  topology.physical_package_id = read_number(root, directory + "physical_package_id");
  topology.die_id = read_number(root, directory + "die_id");
  topology.core_id = read_number(root, directory + "core_id");
  topology.thread_siblings =
      read_set_of_either(root, directory + "core_cpus_list", directory + "thread_siblings_list");
  topology.package_cpus =
      read_set_of_either(root, directory + "package_cpus_list", directory + "core_siblings_list");
  return topology;
}

void read_nodes(int root, Cpus& cpus) {
  const std::string top = kNodeDirectory;
  const auto online = read_set(root, top + "online");
  if (!online) return;
  for (const NodeMeminfo& node : read_node_meminfo(root, *online)) {
    const std::string cpulist = top + "node" + std::to_string(node.id) + "/cpulist";
    cpus.nodes.push_back({node.id, read_set(root, cpulist).value_or(CpuSet()),
                          node.meminfo.get("MemTotal").value_or(0)});
  }
  cpus.nodes_possible = read_set(root, top + "possible").value_or(*online);
  cpus.nodes_with_normal_memory = read_set(root, top + "has_normal_memory").value_or(*online);
  cpus.nodes_with_generic_initiator =
      read_set(root, top + "has_generic_initiator").value_or(CpuSet());
}

Result<Cpus> read_cpus_once(int root) {
  Cpus cpus;
  const std::string directory = kCpuDirectory;
  const auto online = read_set(root, directory + "online");
  const std::string cpuinfo = UMWELT_TRY(read_file_at(root, "proc/cpuinfo"));
  cpus.cpuinfo = UMWELT_TRY(parse_cpuinfo(cpuinfo));
  if (online) {
    cpus.online = *online;
  } else {
    for (const CpuinfoBlock& block : cpus.cpuinfo.blocks) cpus.online.set(block.processor);
  }
  if (cpus.online.empty()) return fail(EINVAL, "no CPU in cpuinfo");
  cpus.possible = read_set(root, directory + "possible").value_or(cpus.online);
  cpus.present = read_set(root, directory + "present").value_or(cpus.online);
  cpus.isolated = read_set(root, directory + "isolated").value_or(CpuSet());
  cpus.enabled = read_set(root, directory + "enabled");
  const auto kernel_max = read_number(root, directory + "kernel_max");
  cpus.kernel_max = kernel_max && *kernel_max >= 0 && *kernel_max <= CpuSet::kMaxId
                        ? static_cast<unsigned>(*kernel_max)
                        : cpus.possible.last().value_or(0);
  for (const unsigned id : cpus.online.ids()) cpus.topology.push_back(read_topology(root, id));
  read_nodes(root, cpus);
  return cpus;
}

}  // namespace

std::vector<NodeMeminfo> read_node_meminfo(int root, const CpuSet& nodes) {
  std::vector<NodeMeminfo> result;
  for (const unsigned id : nodes.ids()) {
    const auto text = read_sysfs(root, kNodeDirectory + ("node" + std::to_string(id)) + "/meminfo");
    auto meminfo = text ? parse_node_meminfo(*text) : Meminfo();
    result.push_back({id, meminfo ? std::move(*meminfo) : Meminfo()});
  }
  return result;
}

Result<Cpus> read_cpus(int root) {
  constexpr int kAttempts = 4;
  for (int attempt = 1;; ++attempt) {
    Cpus cpus = UMWELT_TRY(read_cpus_once(root));
    const auto online = read_set(root, std::string(kCpuDirectory) + "online");
    if (!online || *online == cpus.online || attempt == kAttempts) return cpus;
  }
}

}  // namespace umwelt::host
