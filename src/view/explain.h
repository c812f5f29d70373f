// SPDX-License-Identifier: Apache-2.0
// Where the lines of a served file come from.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "view/files.h"

namespace umwelt::view {

// A line of a file of the host; all of it without a key.
struct HostLine {
  std::string file;  // "/proc/meminfo"
  std::string key;   // "MemTotal:", the line's first word
};

struct LineSource {
  std::vector<std::string> cgroup;  // names for cgroup::origin_of()
  std::vector<HostLine> host;
  std::string note;  // what is made of them, or why there are none
};

// For `line` of what `file` renders of `r`. A line that no table has is explained by the parts that
// the file is made of.
LineSource explain_line(const File& file, const Resources& r, std::string_view line);

// The sources of a line of /proc/meminfo, names separated by blanks, from the table that makes it.
struct MeminfoSource {
  bool host = false;        // the host's own figure
  std::string_view cgroup;  // "": neutral
};
MeminfoSource meminfo_source(const Resources& r, std::string_view key);

}  // namespace umwelt::view
