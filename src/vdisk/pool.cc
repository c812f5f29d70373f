// SPDX-License-Identifier: Apache-2.0
#include "vdisk/pool.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <limits>

#include "base/file.h"
#include "base/parse.h"
#include "vdisk/paths.h"

namespace umwelt::vdisk {
namespace {

constexpr std::uint64_t kGiB = 1ULL << 30;
constexpr double kMaxOvercommit = 1000;

}  // namespace

Result<std::optional<double>> parse_overcommit(std::string_view text) {
  if (text == "reserve") return std::optional<double>();
  constexpr std::string_view kPrefix = "overcommit=";
  if (text.starts_with(kPrefix)) {
    const auto ratio = parse_decimal(text.substr(kPrefix.size()));
    if (ratio && *ratio >= 1 && *ratio <= kMaxOvercommit) return std::optional<double>(*ratio);
  }
  return fail(0, fmt::format("'{}' is no policy: reserve, or overcommit=RATIO with 1 to {}", text,
                             kMaxOvercommit));
}

std::uint64_t Sums::promisable_bytes() const {
  const double bytes = static_cast<double>(size_bytes) * overcommit.value_or(1.0);
  constexpr auto kMax = std::numeric_limits<std::uint64_t>::max();
  return bytes >= static_cast<double>(kMax) ? kMax : static_cast<std::uint64_t>(bytes);
}

const char* name_of(Level level) {
  switch (level) {
    case Level::kNormal:
      return "normal";
    case Level::kLow:
      return "low";
    case Level::kCritical:
      return "critical";
  }
  return "";
}

Level level(const Sums& sums) {
  if (sums.free_bytes < sums.critical_bytes) return Level::kCritical;
  return sums.free_bytes < sums.low_water_bytes ? Level::kLow : Level::kNormal;
}

Sums sums(const Policy& policy, const HostSpace& host, unsigned vdisks,
          std::uint64_t promised_bytes, std::uint64_t allocated_bytes) {
  Sums s;
  s.vdisks = vdisks;
  s.promised_bytes = promised_bytes;
  s.allocated_bytes = allocated_bytes;
  s.overcommit = policy.overcommit;
  s.size_bytes =
      std::min(saturating_add(host.free_bytes, allocated_bytes), policy.size_bytes.value_or(~0ULL));
  s.free_bytes = std::min(host.free_bytes, saturating_sub(s.size_bytes, allocated_bytes));
  s.low_water_bytes = policy.low_water_bytes.value_or(std::min(s.size_bytes / 10, 10 * kGiB));
  s.critical_bytes = policy.critical_bytes.value_or(s.low_water_bytes / 2);
  return s;
}

Result<void> admit(const Sums& s, std::uint64_t capacity_bytes, std::uint64_t allocated_bytes) {
  const std::string policy =
      s.overcommit ? fmt::format("overcommit={:g}", *s.overcommit) : std::string("reserve");
  const std::uint64_t sum = saturating_add(s.promised_bytes, capacity_bytes);
  if (sum > s.promisable_bytes())
    return fail(0,
                fmt::format("the pool is full: {} promised to {} vdisks and {} asked for make "
                            "{}, but with {} a pool of {} gives {}",
                            amount(s.promised_bytes), s.vdisks, amount(capacity_bytes), amount(sum),
                            policy, amount(s.size_bytes), amount(s.promisable_bytes())));
  // A low-water mark of 0 is no leave to take more than there is.
  if (saturating_add(s.allocated_bytes, allocated_bytes) > s.size_bytes ||
      saturating_sub(s.free_bytes, allocated_bytes) < s.low_water_bytes)
    return fail(0, fmt::format("the pool is at its low-water mark: {} of {} are free, {} are to be "
                               "allocated at once, {} must stay free",
                               amount(s.free_bytes), amount(s.size_bytes), amount(allocated_bytes),
                               amount(s.low_water_bytes)));
  return {};
}

Result<Sums> read_sums(int directory, const Policy& policy, std::uint64_t unnamed_bytes) {
  unsigned vdisks = 0;
  std::uint64_t promised = 0, allocated = unnamed_bytes;
  const auto add = [&](const std::string& path, bool promise) {
    struct stat status {};
    if (::fstatat(directory, path.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(status.st_mode))
      return;
    allocated = saturating_add(allocated, static_cast<std::uint64_t>(status.st_blocks) * 512);
    if (!promise) return;
    ++vdisks;
    promised = saturating_add(promised, static_cast<std::uint64_t>(status.st_size));
  };
  for (const std::string& name : UMWELT_TRY(read_names(directory)))
    if (name.ends_with(".img")) add(name, true);
  const std::string ready = kReadyFolder;
  if (const auto names = read_names_at(directory, ready))
    for (const std::string& name : *names) add(ready + "/" + name, false);
  struct statvfs status {};
  if (::fstatvfs(directory, &status) != 0) return fail_errno("statvfs of the pool");
  return sums(policy, {.free_bytes = status.f_bavail * status.f_frsize}, vdisks, promised,
              allocated);
}

std::string amount(std::uint64_t bytes) {
  if (bytes >= kGiB)
    return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / static_cast<double>(kGiB));
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

}  // namespace umwelt::vdisk
