// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace umwelt::fusefs {

// A FUSE node id says by itself what it names, so that a server understands the ids that another
// process gave out: nothing is kept per lookup, and FORGET has nothing to do.
//
//   bits 63-40  number of the container; 0: the root and the shared tree
//   bits 39-26  number of what the entry is of (a cpuN or nodeN directory) + 1, else 0
//   bits 25-0   key of the entry of the tree (tree.h)
//
// The file of a process has kProcess as the number, and the process's id in place of a key.
struct NodeId {
  static constexpr std::uint64_t kRoot = 1;  // FUSE_ROOT_ID
  static constexpr std::uint64_t kMaxContainer = (1U << 24) - 1;
  static constexpr std::uint32_t kMaxKey = (1U << 26) - 1;
  static constexpr unsigned kProcess = (1U << 14) - 2;

  std::uint64_t container = 0;
  std::optional<unsigned> instance;  // shown CPU id or node; which, the entry says
  std::uint32_t key = 0;

  bool is_process() const { return instance == kProcess; }

  static constexpr NodeId from(std::uint64_t value) {
    NodeId id;
    id.container = value >> 40;
    const auto instance = static_cast<unsigned>(value >> 26) & 0x3fffU;
    if (instance != 0) id.instance = instance - 1;
    id.key = static_cast<std::uint32_t>(value) & kMaxKey;
    return id;
  }
  constexpr std::uint64_t value() const {
    return container << 40 | std::uint64_t{instance ? *instance + 1 : 0} << 26 | key;
  }
  friend bool operator==(const NodeId&, const NodeId&) = default;
};

// ("cpu12", "cpu") -> 12; nullopt for every other name, also for "cpu012".
std::optional<unsigned> parse_numbered(std::string_view name, std::string_view stem);

}  // namespace umwelt::fusefs
