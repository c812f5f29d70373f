// SPDX-License-Identifier: Apache-2.0
// /proc/PID/mountinfo and /proc/PID/cgroup.
#include "cgroup/hierarchies.h"
#include "targets.h"

int fuzz_cgroup_mounts(const std::uint8_t* data, std::size_t size) {
  using namespace umwelt;
  const std::string_view text = fuzz::text_of(data, size);
  if (const auto found = cgroup::Hierarchies::parse(text))
    for (const auto& [controller, mount] : found->v1) FUZZ_CHECK(!controller.empty());
  if (const auto paths = cgroup::parse_proc_cgroup(text))
    for (const auto& [controller, path] : *paths) FUZZ_CHECK(cgroup::check_path(path));
  return 0;
}
