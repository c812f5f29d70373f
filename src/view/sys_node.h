// SPDX-License-Identifier: Apache-2.0
// The files of /sys/devices/system/node itself; find_sys_file() of view/sys_files.h has those of
// nodeN.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "view/resources.h"

namespace umwelt::view {

std::string render_node_online(const Resources& r);
std::string render_node_possible(const Resources& r);
std::string render_node_has_cpu(const Resources& r);
std::string render_node_has_memory(const Resources& r);
std::string render_node_has_normal_memory(const Resources& r);
std::string render_node_has_generic_initiator(const Resources& r);

// Of the pages of the pool that `key` of meminfo counts ("HugePages_Free"), those on a node; `host`
// is the machine's own count there. Not for another key.
std::uint64_t huge_pages_of_node(const Resources& r, unsigned node, std::string_view key,
                                 std::uint64_t host);

// The part of `value` that falls to a node: as large a part as the node has of the memory of all
// nodes that the container may use. The parts of all nodes sum to `value`.
std::uint64_t share_of_node(const Nodes& nodes, unsigned node, std::uint64_t value);

}  // namespace umwelt::view
