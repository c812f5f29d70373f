// SPDX-License-Identifier: Apache-2.0
#include "cgroup/hierarchies.h"

#include <linux/limits.h>

#include <algorithm>
#include <array>

#include "base/file.h"
#include "base/parse.h"

namespace umwelt::cgroup {
namespace {

// The super block options of a v1 mount name its controllers among other words.
bool controller(std::string_view option) {
  static constexpr std::array<std::string_view, 16> kControllers = {
      "blkio",   "cpu",    "cpuacct", "cpuset",  "debug",    "devices",    "dmem", "freezer",
      "hugetlb", "memory", "misc",    "net_cls", "net_prio", "perf_event", "pids", "rdma"};
  return std::find(kControllers.begin(), kControllers.end(), option) != kControllers.end() ||
         (option.starts_with("name=") && option.size() > 5);
}

}  // namespace

Result<Hierarchies> Hierarchies::parse(std::string_view mountinfo) {
  // 41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
  Hierarchies found;
  while (auto line = next_line(mountinfo)) {
    std::string_view rest = *line;
    for (int i = 0; i < 3; ++i) next_word(rest);
    const std::string_view root = next_word(rest);
    const std::string_view mount_point = next_word(rest);
    if (root != "/" || !mount_point.starts_with('/')) continue;
    for (std::string_view word = next_word(rest); !word.empty() && word != "-";)
      word = next_word(rest);
    const std::string_view type = next_word(rest);
    next_word(rest);  // the source
    std::string_view options = next_word(rest);
    if (type == "cgroup2") {
      if (found.v2.empty()) found.v2 = unescape_octal(mount_point);
    } else if (type == "cgroup") {
      while (!options.empty()) {
        const std::string_view option = next_part(options, ',');
        if (controller(option)) found.v1.emplace(option, unescape_octal(mount_point));
      }
    }
  }
  if (found.v1.empty() && found.v2.empty()) return fail(ENOENT, "no cgroup hierarchy is mounted");
  return found;
}

Result<Hierarchies> Hierarchies::read() {
  const std::string mountinfo = UMWELT_TRY(read_file("/proc/self/mountinfo"));
  return parse(mountinfo);
}

Result<void> check_path(std::string_view path) {
  const auto refuse = [&] { return fail(EINVAL, "cgroup path \"" + std::string(path) + "\""); };
  if (!path.starts_with('/') || path.size() >= PATH_MAX ||
      path.find('\0') != std::string_view::npos)
    return refuse();
  while (!path.empty()) {
    const std::string_view component = next_part(path, '/');
    if (component == "." || component == "..") return refuse();
  }
  return {};
}

Result<Paths> parse_proc_cgroup(std::string_view text) {
  // 3:cpu,cpuacct:/umwelt/web
  Paths paths;
  while (auto line = next_line(text)) {
    std::string_view path = *line;
    const auto id = parse_u64(next_part(path, ':'));
    std::string_view controllers = next_part(path, ':');
    if (!id) return fail(EINVAL, "parse /proc/PID/cgroup");
    UMWELT_CHECK(check_path(path));
    if (controllers.empty()) paths.emplace("", path);
    while (!controllers.empty()) paths.emplace(next_part(controllers, ','), path);
  }
  if (paths.empty()) return fail(EINVAL, "parse /proc/PID/cgroup");
  return paths;
}

}  // namespace umwelt::cgroup
