// SPDX-License-Identifier: Apache-2.0
#include "view/sys_files.h"

namespace umwelt::view {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool matches(std::string_view pattern, std::string_view path) {
  while (!pattern.empty() && !path.empty()) {
    if (pattern[0] == '*') {
      if (!is_digit(path[0])) return false;
      while (!path.empty() && is_digit(path[0])) path.remove_prefix(1);
    } else {
      if (pattern[0] != path[0]) return false;
      path.remove_prefix(1);
    }
    pattern.remove_prefix(1);
  }
  return pattern.empty() && path.empty();
}

}  // namespace

const SysFile* find_sys_file(std::string_view path) {
  for (const auto table : {sys_cpu_files(), sys_node_files(), hugepages_files()})
    for (const SysFile& file : table)
      if (matches(file.path, path)) return &file;
  return nullptr;
}

}  // namespace umwelt::view
