// SPDX-License-Identifier: Apache-2.0
// Every file of /sys that is made from the host's text, from any text; and a node's meminfo.
#include "view/sys_files.h"

#include <string>
#include <vector>

#include "base/parse.h"
#include "host/parse.h"
#include "targets.h"
#include "view/files.h"

namespace {

using namespace umwelt;

// Two nodes of four CPUs; the container has some of both, and a limit.
view::Resources container(bool dense) {
  auto cpus = std::make_shared<host::Cpus>();
  cpus->online = cpus->present = CpuSet::range(0, 7);
  cpus->possible = CpuSet::range(0, 15);
  cpus->nodes = {{0, CpuSet::range(0, 3), 1U << 30}, {1, CpuSet::range(4, 7), 3U << 30}};
  auto meminfo = std::make_shared<host::Meminfo>();
  meminfo->rows = {{"MemTotal", std::uint64_t{4} << 30, true}};
  host::Facts facts;
  facts.cpus = cpus;
  facts.meminfo = meminfo;
  cgroup::State state;
  state.limits.cpus = *CpuSet::parse("1,4-5");
  state.limits.memory_max_bytes = 100U << 20;
  state.limits.hugetlb = {{2U << 20, 16U << 20}};
  state.memory.emplace().limit_usage_bytes = 7U << 20;
  view::Identity identity;
  identity.policy.cpu_ids = dense ? view::CpuIds::kDense : view::CpuIds::kHost;
  return view::resources(std::move(facts), state, identity, {});
}

}  // namespace

int fuzz_sys_files(const std::uint8_t* data, std::size_t size) {
  static const view::Resources kContainers[] = {container(false), container(true)};
  std::string_view text = fuzz::text_of(data, size);
  const auto path = next_line(text);
  if (!path) return 0;
  (void)view::find_sys_file(*path);
  if (const auto meminfo = host::parse_node_meminfo(text)) FUZZ_CHECK(!meminfo->rows.empty());
  for (const view::Resources& r : kContainers) {
    const view::SysFile::Subject subject{&r.cpus.shown.back(), 1, 2U << 20};
    for (const auto table :
         {view::sys_cpu_files(), view::sys_node_files(), view::hugepages_files()}) {
      for (const view::SysFile& file : table) {
        const std::string shown = file.render(r, subject, text);
        FUZZ_CHECK(shown.empty() || shown.back() == '\n' || shown == text);
      }
    }
  }
  return 0;
}
