// SPDX-License-Identifier: Apache-2.0
// Files of /sys that are made from the host's own text of them: those that name CPUs or nodes, or
// count what the container does not have. What is in no table is passed through from the host.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "view/resources.h"

namespace umwelt::view {

struct SysFile {
  // What the file is of, as far as its path says.
  struct Subject {
    const ShownCpu* cpu = nullptr;  // cpuN
    unsigned node = 0;              // nodeN
    std::uint64_t page_bytes = 0;   // hugepages-SIZEkB
  };
  std::string_view path;  // "sys/devices/system/cpu/cpu*/topology/core_id": '*' is a number
  unsigned needs;         // bits of Need (view/files.h)
  bool stable;            // only a change of the limits or of the CPUs changes the text
  // `host_text` is the text of the host's file of the same CPU, node or size. A text of no known
  // form gives an empty file.
  std::string (*render)(const Resources&, const Subject&, std::string_view host_text);
};

// nullptr: the file is passed through. `path` has numbers, of whichever CPU or node.
const SysFile* find_sys_file(std::string_view path);

// The tables, each in the file of its name.
std::span<const SysFile> sys_cpu_files();
std::span<const SysFile> sys_node_files();
std::span<const SysFile> hugepages_files();

}  // namespace umwelt::view
