// SPDX-License-Identifier: Apache-2.0
#include "base/cpu_set.h"

#include "targets.h"

int fuzz_cpu_set(const std::uint8_t* data, std::size_t size) {
  if (const auto masked = umwelt::CpuSet::parse_mask(umwelt::fuzz::text_of(data, size)))
    FUZZ_CHECK(umwelt::CpuSet::parse_mask(masked->mask(umwelt::CpuSet::kMaxId + 1)) == masked);
  const auto set = umwelt::CpuSet::parse(umwelt::fuzz::text_of(data, size));
  if (!set) return 0;
  FUZZ_CHECK(umwelt::CpuSet::parse(set->list()) == set);
  FUZZ_CHECK(set->ids().size() == set->count());
  FUZZ_CHECK(set->empty() == !set->last().has_value());
  FUZZ_CHECK(set->contains(set->first(set->count() / 2)));
  set->mask(set->last().value_or(0) + 1);
  return 0;
}
