// SPDX-License-Identifier: Apache-2.0
#include "vdisk/io_limits.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"
#include "base/parse.h"
#include "vdisk/loop.h"

namespace umwelt::vdisk {
namespace {

// So much may be dirty of a device with a write limit: so many seconds of it, within these bounds.
// On v1 a buffered or mapped write stays at 0.8 to 0.9 of its limit with one, at 0.9 to 1 with two;
// on v2, where the kernel divides it among cgroups, more than one lets it go beyond.
struct DirtyLimit {
  std::uint64_t seconds, min_bytes, max_bytes;
};
constexpr DirtyLimit kDirtyV1{3, 4ULL << 20, 64ULL << 20}, kDirtyV2{1, 4ULL << 20, 16ULL << 20};

struct Rule {
  const char* v1_file;
  const char* v2_key;
  std::optional<std::uint64_t> IoLimits::*field;
};
constexpr Rule kRules[] = {
    {"blkio.throttle.read_bps_device", "rbps", &IoLimits::read_bps},
    {"blkio.throttle.write_bps_device", "wbps", &IoLimits::write_bps},
    {"blkio.throttle.read_iops_device", "riops", &IoLimits::read_iops},
    {"blkio.throttle.write_iops_device", "wiops", &IoLimits::write_iops},
};

// Where controllers are mounted does not change; the table of mounts can be long.
const Result<cgroup::Hierarchies>& hierarchies_of_host() {
  static const Result<cgroup::Hierarchies> hierarchies = cgroup::Hierarchies::read();
  return hierarchies;
}

const DirtyLimit& dirty_limit() {
  const auto& hierarchies = hierarchies_of_host();
  return hierarchies && hierarchies->v1.contains("blkio") ? kDirtyV1 : kDirtyV2;
}

std::string number_of(dev_t device) { return fmt::format("{}:{}", major(device), minor(device)); }

bool is_there(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

// All lines of the root cgroup's, each after a newline.
Result<std::string> read_v1_limits() {
  std::string text;
  if (!hierarchies_of_host()) return fail(hierarchies_of_host().error());
  const auto blkio = hierarchies_of_host()->v1.find("blkio");
  if (blkio == hierarchies_of_host()->v1.end()) return text;
  for (const Rule& rule : kRules)
    text += "\n" +
            UMWELT_TRY(read_optional_at(AT_FDCWD, blkio->second + "/" + rule.v1_file)).value_or("");
  return text;
}

Result<void> write_bdi(dev_t device, const IoLimits& limits) {
  const std::string directory = "/sys/class/bdi/" + number_of(device);
  const auto now = read_file(directory + "/strict_limit");
  if (!now) return {};  // Linux before 6.2
  const bool limited = limits.write_bps || limits.write_iops;
  if (!limited && now->starts_with('0')) return {};
  if (!limited) {
    UMWELT_CHECK(write_file_at(AT_FDCWD, directory + "/strict_limit", "0"));
    return write_file_at(AT_FDCWD, directory + "/max_ratio", "100");
  }
  const DirtyLimit& dirty = dirty_limit();
  // A speed of 2^60 is one, too.
  const std::uint64_t bps = std::min(limits.write_bps.value_or(dirty.max_bytes), dirty.max_bytes);
  const std::uint64_t bytes = std::clamp(bps * dirty.seconds, dirty.min_bytes, dirty.max_bytes);
  UMWELT_CHECK(write_file_at(AT_FDCWD, directory + "/strict_limit", "1"));
  const auto set = write_file_at(AT_FDCWD, directory + "/max_bytes", std::to_string(bytes));
  // On the whole host less may be dirty: the kernel refuses more (bdi_set_max_bytes()).
  if (!set && set.error().code == EINVAL)
    return write_file_at(AT_FDCWD, directory + "/max_ratio", "100");
  return set;
}

}  // namespace

std::string render_v1_limit(dev_t device, std::optional<std::uint64_t> limit) {
  return fmt::format("{} {}", number_of(device), limit.value_or(0));
}

std::string render_v2_limits(dev_t device, const IoLimits& limits) {
  std::string text = number_of(device);
  for (const Rule& rule : kRules)
    text += fmt::format(" {}={}", rule.v2_key,
                        limits.*rule.field ? std::to_string(*(limits.*rule.field)) : "max");
  return text;
}

Result<void> apply_v1_limits(const std::string& directory, dev_t device, const IoLimits& limits) {
  const std::string prefix = number_of(device) + " ";
  for (const Rule& rule : kRules) {
    const std::string path = directory + "/" + rule.v1_file;
    const auto& wanted = limits.*rule.field;
    if (::access(path.c_str(), F_OK) != 0 && errno == ENOENT) {
      if (!wanted) continue;
      return fail(0,
                  "a speed limit: this kernel throttles no block devices "
                  "(CONFIG_BLK_DEV_THROTTLING)");
    }
    if (!wanted) {
      const std::string now = UMWELT_TRY(read_file(path));
      if (!now.starts_with(prefix) && now.find("\n" + prefix) == std::string::npos) continue;
    }
    UMWELT_CHECK(write_file_at(AT_FDCWD, path, render_v1_limit(device, wanted)));
  }
  return {};
}

Result<void> apply_device_limits(dev_t device, const IoLimits& limits) {
  if (!hierarchies_of_host()) return fail(hierarchies_of_host().error());
  const cgroup::Hierarchies& hierarchies = *hierarchies_of_host();
  if (const auto blkio = hierarchies.v1.find("blkio"); blkio != hierarchies.v1.end())
    UMWELT_CHECK(apply_v1_limits(blkio->second, device, limits));
  return write_bdi(device, limits);
}

Result<void> lift_forgotten_limits() {
  constexpr std::string_view kLoop = "7:";
  const auto control = open_at(AT_FDCWD, kLoopControl, O_RDWR);
  if (!control) return control.error().code == ENOENT ? Result<void>() : fail(control.error());
  // So long nobody of ours attaches a file.
  if (::flock(control->get(), LOCK_EX | LOCK_NB) != 0) return {};
  const auto names = read_names_at(AT_FDCWD, "/sys/class/bdi");
  if (!names) return {};
  const std::string limited = UMWELT_TRY(read_v1_limits());
  for (const std::string& name : *names) {
    const auto number =
        name.starts_with(kLoop) ? parse_u64(name.substr(kLoop.size())) : std::nullopt;
    if (!number) continue;
    if (limited.find("\n" + name + " ") == std::string::npos &&
        !read_file("/sys/class/bdi/" + name + "/strict_limit").value_or("").starts_with('1'))
      continue;
    if (::access(("/sys/dev/block/" + name + "/loop").c_str(), F_OK) == 0) continue;
    UMWELT_CHECK(apply_device_limits(makedev(7, static_cast<unsigned>(*number)), {}));
  }
  return {};
}

Result<void> apply_io_limits(dev_t device, const IoLimits& limits, const cgroup::Paths& container) {
  if (!hierarchies_of_host()) return fail(hierarchies_of_host().error());
  const cgroup::Hierarchies& hierarchies = *hierarchies_of_host();
  const auto blkio = hierarchies.v1.find("blkio");
  if (blkio != hierarchies.v1.end()) {
    const auto path = container.find("blkio");
    if (path == container.end() && limits.any())
      return fail(0, "a speed limit: the container has no cgroup of the blkio controller");
    if (path == container.end() || !is_there(blkio->second + path->second)) return {};
    return apply_v1_limits(blkio->second + path->second, device, limits);
  }
  const auto path = container.find("");
  if (path != container.end() && !is_there(hierarchies.v2 + path->second)) return {};
  const std::string file = path == container.end() ? "" : hierarchies.v2 + path->second + "/io.max";
  if (file.empty() || ::access(file.c_str(), W_OK) != 0) {
    if (!limits.any()) return {};
    return fail(0, "a speed limit: this host has no io controller for containers");
  }
  return write_file_at(AT_FDCWD, file, render_v2_limits(device, limits));
}

}  // namespace umwelt::vdisk
