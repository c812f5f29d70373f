// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::fusefs {

// What the host has below the directories of /sys that are served, read through one held
// descriptor. Thread-safe: it never changes after open().
class HostTree {
 public:
  static constexpr const char* kCpuDirectory = "sys/devices/system/cpu";    // holds cpuN
  static constexpr const char* kNodeDirectory = "sys/devices/system/node";  // holds nodeN
  static constexpr const char* kHugepagesDirectory = "sys/kernel/mm/hugepages";

  struct Item {
    std::string path;  // "sys/devices/system/cpu/vulnerabilities/spectre_v2"
    mode_t mode = 0;   // type and permissions, as lstat(2) has them
  };
  // Each sorted by path. Those of cpuN and nodeN are the union over all of them, relative to it.
  struct Items {
    std::vector<Item> common;
    std::vector<Item> per_cpu;   // without what runtimes hide of it
    std::vector<Item> per_node;  // without the links to its CPUs, and to its blocks of memory
  };

  // `root` has proc/ and sys/.
  static Result<HostTree> open(const std::string& root = "/");

  // Walks the directories above as far as the host has them; costs time with the number of CPUs.
  Result<Items> scan() const;

  // `path` is relative to the root: "sys/devices/system/cpu/cpu1/topology/core_id". The errno is
  // the host file's own.
  Result<std::string> read_text(const std::string& path) const;
  Result<std::string> read_link(const std::string& path) const;
  bool exists(const std::string& path) const;

 private:
  explicit HostTree(UniqueFd root) : root_(std::move(root)) {}
  UniqueFd root_;
};

}  // namespace umwelt::fusefs
