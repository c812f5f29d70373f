// SPDX-License-Identifier: Apache-2.0
#include "fusefs/node.h"

#include "base/cpu_set.h"
#include "base/parse.h"

namespace umwelt::fusefs {

static_assert(CpuSet::kMaxId < NodeId::kProcess, "a CPU id must fit its field");

std::optional<unsigned> parse_numbered(std::string_view name, std::string_view stem) {
  if (!name.starts_with(stem)) return std::nullopt;
  name.remove_prefix(stem.size());
  if (name.empty() || name.size() > 4 || (name[0] == '0' && name.size() > 1)) return std::nullopt;
  const auto id = parse_u64(name);
  if (!id || *id > CpuSet::kMaxId) return std::nullopt;
  return static_cast<unsigned>(*id);
}

}  // namespace umwelt::fusefs
