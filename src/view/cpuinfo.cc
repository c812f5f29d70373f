// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "view/files.h"
#include "view/topology.h"

namespace umwelt::view {
namespace {

struct Row {
  std::string_view key;
  bool dense_only;  // else the host's number stands under host ids
  unsigned (*value)(const ShownCpu&, const ShownTopology&);
};
constexpr Row kRows[] = {
    {"processor", false, [](const ShownCpu& cpu, const ShownTopology&) { return cpu.id; }},
    {"siblings", false, [](const ShownCpu&, const ShownTopology& t) { return t.siblings; }},
    {"cpu cores", false, [](const ShownCpu&, const ShownTopology& t) { return t.cores; }},
    {"physical id", true, [](const ShownCpu&, const ShownTopology& t) { return t.package; }},
    {"core id", true, [](const ShownCpu&, const ShownTopology& t) { return t.core; }},
    {"apicid", true, [](const ShownCpu& cpu, const ShownTopology&) { return cpu.id; }},
    {"initial apicid", true, [](const ShownCpu& cpu, const ShownTopology&) { return cpu.id; }},
};

const Row* find_row(std::string_view key, bool dense) {
  for (const Row& row : kRows)
    if (row.key == key) return row.dense_only && !dense ? nullptr : &row;
  return nullptr;
}

std::size_t size_of(const host::Cpuinfo& cpuinfo) {
  std::size_t size = cpuinfo.header.size() + cpuinfo.trailer.size();
  for (const host::CpuinfoBlock& block : cpuinfo.blocks) {
    for (const host::CpuinfoField& field : block.fields)
      size += field.key.size() + field.separator.size() + field.value.size() + 4;
  }
  return size;
}

}  // namespace

std::string render_cpuinfo(const Resources& r) {
  std::string text;
  if (!r.host.cpus) return text;
  const host::Cpuinfo& cpuinfo = r.host.cpus->cpuinfo;
  const std::vector<ShownTopology> topology = shown_topology(r);
  text.reserve(size_of(cpuinfo));
  text += cpuinfo.header;
  for (std::size_t i = 0; i < r.cpus.shown.size(); ++i) {
    const ShownCpu& cpu = r.cpus.shown[i];
    const auto block =
        std::lower_bound(cpuinfo.blocks.begin(), cpuinfo.blocks.end(), cpu.physical,
                         [](const host::CpuinfoBlock& b, unsigned id) { return b.processor < id; });
    if (block == cpuinfo.blocks.end() || block->processor != cpu.physical) continue;
    for (const host::CpuinfoField& field : block->fields) {
      text += field.key;
      text += field.separator;
      if (const Row* row = find_row(field.key, r.cpus.dense); row && r.identity.limited) {
        fmt::format_to(std::back_inserter(text), "{}\n", row->value(cpu, topology[i]));
      } else {
        text += field.value;
        text += '\n';
      }
    }
    text += block->end;
  }
  text += cpuinfo.trailer;
  return text;
}

}  // namespace umwelt::view
