// SPDX-License-Identifier: Apache-2.0
// Where a value of State came from, for people: which file, and what is in it.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "cgroup/directory.h"

namespace umwelt::cgroup {

struct KernelValue {
  std::string file;   // absolute, "/sys/fs/cgroup/memory/web/memory.stat"
  std::string line;   // the key of the line that is meant, "" for the whole file
  std::string value;  // that line's value; of a file its lines, joined by blanks
};

// What the files are looked up with: the directories by controller (reader.h), and the levels that
// set the quota and the memory limit.
struct Origins {
  const std::map<std::string, const Directory*>& by_controller;
  const Directory* tasks = nullptr;  // tells the tasks; null: none does
  unsigned quota_level = 0, memory_level = 0;
};

// The files behind `name`, which is that of cgroup2: "memory.max", "cpuset.cpus.effective",
// "memory.stat:anon" for a line of a file. On v1 those that have the same there, several where one
// has become of them. "limit:memory.current" is of the cgroup that sets the memory limit. A limit
// is that of the level that sets it; "memory.above" are the larger memory limits above that level,
// with what is used there; empty where nobody does, or the kernel has no such file.
std::vector<KernelValue> origin_of(const Origins& origins, std::string_view name);

}  // namespace umwelt::cgroup
