// SPDX-License-Identifier: Apache-2.0
#include "cgroup/origin.h"

#include <algorithm>
#include <optional>

#include "base/parse.h"
#include "cgroup/parse.h"

namespace umwelt::cgroup {
namespace {

enum class Level {
  kOwn,
  kQuota,     // that sets the quota
  kMemory,    // that sets the memory limit
  kSmallest,  // with the smallest number, the topmost of equal ones
};

struct Row {
  std::string_view name;  // of cgroup2, without a line but where the line is another file on v1
  const char* controller;
  std::string_view v1;  // files, separated by blanks; with a line after ':'
  std::string_view v2;  // the same; "": as `name`
  Level level;
};
constexpr Row kRows[] = {
    {"cpuset.cpus.effective", "cpuset", "cpuset.effective_cpus", "", Level::kOwn},
    {"cpuset.mems.effective", "cpuset", "cpuset.effective_mems", "", Level::kOwn},
    {"cpu.max", "cpu", "cpu.cfs_quota_us cpu.cfs_period_us", "", Level::kQuota},
    {"cpu.used", "cpuacct", "cpuacct.usage_percpu cpuacct.stat",
     "cpu.stat:user_usec cpu.stat:system_usec cpu.stat:nice_usec", Level::kOwn},
    {"cpu.throttled", "cpu", "cpu.stat:throttled_time", "cpu.stat:throttled_usec", Level::kOwn},
    {"memory.max", "memory", "memory.limit_in_bytes", "", Level::kMemory},
    {"memory.current", "memory", "memory.usage_in_bytes", "", Level::kOwn},
    {"memory.stat", "memory", "memory.stat", "", Level::kOwn},
    // v1 counts all kernel memory as one; see memory.cc.
    {"memory.stat:slab_unreclaimable", "memory", "memory.kmem.usage_in_bytes",
     "memory.stat:slab_unreclaimable", Level::kOwn},
    {"memory.swap.max", "memory", "memory.memsw.limit_in_bytes memory.limit_in_bytes", "",
     Level::kSmallest},
    {"memory.swap.current", "memory", "memory.stat:total_swap", "", Level::kOwn},
    {"pids.max", "pids", "pids.max", "", Level::kSmallest},
    {"cpu.pressure", "", "cpu.pressure", "", Level::kOwn},
    {"memory.pressure", "", "memory.pressure", "", Level::kOwn},
    {"io.pressure", "", "io.pressure", "", Level::kOwn},
    {"irq.pressure", "", "irq.pressure", "", Level::kOwn},
    {"io.stat", "blkio",
     "blkio.throttle.io_service_bytes_recursive blkio.throttle.io_serviced_recursive", "",
     Level::kOwn},
};

std::string joined_lines(std::string_view text) {
  std::string joined;
  while (const auto line = next_line(text)) {
    if (!joined.empty()) joined += ' ';
    joined += *line;
  }
  return joined;
}

std::optional<std::string> find_line(std::string_view text, std::string_view key) {
  while (auto line = next_line(text))
    if (next_word(*line) == key) return std::string(trim(*line));
  return std::nullopt;
}

// Of a limit file: nullopt for "max", a huge number and a file that is not there.
std::optional<std::uint64_t> number_at(const Directory& directory, unsigned level,
                                       std::string_view file) {
  std::string buffer;
  const auto text = directory.read(level, file, buffer);
  if (!text || !*text) return std::nullopt;
  const auto value = directory.v2() ? parse_max(**text) : parse_limit_in_bytes(**text);
  return value ? *value : std::nullopt;
}

// nullopt: no level has a number.
std::optional<unsigned> smallest_level(const Directory& directory, std::string_view file) {
  std::optional<unsigned> found;
  std::uint64_t smallest = 0;
  for (unsigned level = 0; level <= directory.depth(); ++level) {
    const auto here = number_at(directory, level, file);
    if (!here || (found && *here > smallest)) continue;
    found = level;
    smallest = *here;
  }
  return found;
}

std::optional<KernelValue> read_value(const Directory& directory, unsigned level,
                                      std::string_view file, std::string_view line) {
  std::string buffer;
  const auto text = directory.read(level, file, buffer);
  if (!text || !*text) return std::nullopt;
  KernelValue value{directory.existing_path(level, file), std::string(line), ""};
  if (line.empty()) {
    value.value = joined_lines(**text);
  } else {
    auto found = find_line(**text, line);
    if (!found) return std::nullopt;
    value.value = *std::move(found);
  }
  return value;
}

std::optional<unsigned> level_of(const Row& row, const Directory& directory, const Origins& origins,
                                 std::string_view file) {
  switch (row.level) {
    case Level::kOwn:
      return 0;
    case Level::kQuota:
      return origins.quota_level;
    case Level::kMemory:
      return origins.memory_level;
    case Level::kSmallest:
      return smallest_level(directory, file);
  }
  return 0;
}

// What a root counts is everybody's (reader.cc); a cpuset is what its tasks may use, there too.
bool is_of_the_machine(const Row& row, const Directory& directory) {
  const std::string_view controller = row.controller;
  if (directory.depth() > 0 || controller == "cpuset") return false;
  return controller.empty() || (!directory.v2() && row.level == Level::kOwn);
}

// Of the cgroup itself; those below it have files of their own.
std::vector<KernelValue> tasks_of(const Directory* directory) {
  if (directory == nullptr) return {};
  const std::string_view file = directory->v2() ? "cgroup.threads" : "tasks";
  std::string buffer;
  const auto text = directory->read(0, file, buffer);
  if (!text || !*text) return {};
  const auto count = std::count((*text)->begin(), (*text)->end(), '\n');
  return {{directory->existing_path(0, file), "", std::to_string(count) + " threads"}};
}

// The memory limits above that level, and what is used there.
std::vector<KernelValue> above(const Directory& directory, unsigned level) {
  std::vector<KernelValue> values;
  const std::string_view limit = directory.v2() ? "memory.max" : "memory.limit_in_bytes";
  const std::string_view usage = directory.v2() ? "memory.current" : "memory.usage_in_bytes";
  while (++level <= directory.depth()) {
    if (!number_at(directory, level, limit)) continue;
    for (const std::string_view file : {limit, usage})
      if (auto value = read_value(directory, level, file, "")) values.push_back(*std::move(value));
  }
  return values;
}

}  // namespace

std::vector<KernelValue> origin_of(const Origins& origins, std::string_view name) {
  constexpr std::string_view kLimit = "limit:";
  const bool of_limit = name.starts_with(kLimit);
  if (of_limit) name.remove_prefix(kLimit.size());
  if (name == "cgroup.threads") return tasks_of(origins.tasks);
  if (name == "memory.above") {
    const auto memory = origins.by_controller.find("memory");
    if (memory == origins.by_controller.end()) return {};
    return above(*memory->second, origins.memory_level);
  }
  const auto find = [&](std::string_view wanted) {
    return std::find_if(std::begin(kRows), std::end(kRows),
                        [&](const Row& r) { return r.name == wanted; });
  };
  std::string_view wanted_line;
  auto row = find(name);
  if (const std::size_t colon = name.find(':');
      row == std::end(kRows) && colon != std::string_view::npos) {
    wanted_line = name.substr(colon + 1);
    row = find(name.substr(0, colon));
  }
  if (row == std::end(kRows)) return {};
  const auto directory = origins.by_controller.find(row->controller);
  if (directory == origins.by_controller.end()) return {};
  const Directory& where = *directory->second;
  if (is_of_the_machine(*row, where)) return {};
  if (!where.v2() && !wanted_line.empty()) {
    wanted_line = memory_stat_key_v1(wanted_line);
    if (wanted_line.empty()) return {};
  }

  std::vector<KernelValue> values;
  std::string_view files = where.v2() ? (row->v2.empty() ? row->name : row->v2) : row->v1;
  std::optional<unsigned> level;
  if (of_limit) level = origins.memory_level;
  for (auto file = next_word(files); !file.empty(); file = next_word(files)) {
    const std::size_t split = file.find(':');
    const std::string_view line =
        split == std::string_view::npos ? wanted_line : file.substr(split + 1);
    file = file.substr(0, split);
    if (!level) level = level_of(*row, where, origins, file);
    if (!level) continue;
    if (auto value = read_value(where, *level, file, line)) values.push_back(*std::move(value));
  }
  return values;
}

}  // namespace umwelt::cgroup
