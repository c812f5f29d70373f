// SPDX-License-Identifier: Apache-2.0
// The pool: a directory of the host that holds vdisks. How much may be promised, and how near the
// host is to being full.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace umwelt::vdisk {

struct Policy {
  // Capacities may add up to this many pools; nullopt ("reserve"): to no more than the pool holds.
  std::optional<double> overcommit = 4.0;
  // Of the pool; nullopt: what the filesystem has for us.
  std::optional<std::uint64_t> size_bytes = {};
  // Below so much free space nothing is created and everything is trimmed; below the second mark
  // writers are stopped. nullopt: a tenth and a twentieth of the pool, at most 10 and 5 GiB.
  std::optional<std::uint64_t> low_water_bytes = {}, critical_bytes = {};
};

// "reserve" or "overcommit=2.0" (1 to 1000); an Error is a whole sentence (code 0).
Result<std::optional<double>> parse_overcommit(std::string_view text);

struct Sums {
  unsigned vdisks = 0;
  std::uint64_t promised_bytes = 0;   // capacities
  std::uint64_t allocated_bytes = 0;  // on the host
  std::uint64_t size_bytes = 0;       // that the pool can hold
  std::uint64_t free_bytes = 0;       // of it, now
  std::uint64_t low_water_bytes = 0, critical_bytes = 0;
  std::optional<double> overcommit;

  std::uint64_t promisable_bytes() const;
};

enum class Level { kNormal, kLow, kCritical };
const char* name_of(Level level);  // "normal", "low", "critical"
Level level(const Sums& sums);

struct HostSpace {
  std::uint64_t free_bytes = 0;  // for root
};
// Sums of `vdisks` files with these totals on such a host, by `policy`.
Sums sums(const Policy& policy, const HostSpace& host, unsigned vdisks,
          std::uint64_t promised_bytes, std::uint64_t allocated_bytes);

// Whether one more vdisk may be made of which `allocated_bytes` are taken at once. The error is a
// sentence with the sums (code 0).
Result<void> admit(const Sums& sums, std::uint64_t capacity_bytes, std::uint64_t allocated_bytes);

// Of every "*.img" in the directory, of a descriptor that nobody has read from. What is prepared
// (ready.h) is promised to nobody, but has its space; so has a vdisk without a name yet, of
// `unnamed_bytes`.
Result<Sums> read_sums(int directory, const Policy& policy, std::uint64_t unnamed_bytes = 0);

std::string amount(std::uint64_t bytes);  // "2.0 GiB", "512.0 MiB"

}  // namespace umwelt::vdisk
