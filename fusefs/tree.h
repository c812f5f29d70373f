// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "fusefs/passthrough.h"
#include "view/files.h"
#include "view/sys_files.h"

namespace umwelt::fusefs {

// Where a tree is looked at from. A pinned tree is split over the connections (a file appears on
// its own one only); the shared tree, on the live connection, has everything. Its pressure files
// are on their own connection, too.
enum class Side : unsigned { kConfig, kLive, kPressure, kShared };
constexpr Side side_of(view::Connection connection) { return static_cast<Side>(connection); }
static_assert(side_of(view::Connection::kPressure) == Side::kPressure);

// What an entry is there once for.
enum class Scope {
  kContainer,  // its path is relative to the container's tree
  kCpu,        // all shown CPUs: relative to cpuN
  kNode,       // all shown memory nodes: relative to nodeN
  kNodeCpu,    // the link in a nodeN to a shown CPU of it
  kProcess,    // the file of a process, in the container's directory and in no listing of it
};
inline constexpr std::size_t kScopes = 5;

// One file, directory or link of a container's tree.
struct Entry {
  enum class Source {
    kDirectory,      // made up here, to hold the others
    kView,           // a row of view::files()
    kSysView,        // a view::SysFile
    kHost,           // the host's file
    kHostDirectory,  // the host's directory
    kHostLink,       // the host's symbolic link
    kCpuLink,        // of a node
    kProcessStatus,  // intercept/status.h
  };

  Source source = Source::kDirectory;
  Scope scope = Scope::kContainer;
  std::string path;
  std::string_view name;
  mode_t mode = 0;           // type and permissions; only pressure files are writable
  std::uint32_t key = 0;     // in node ids
  unsigned connections = 0;  // where it is: bits, by Side
  // Only a change of the limits or of the CPUs changes the text. Not so for most host files, which
  // change without notice.
  bool stable = true;
  const view::File* file = nullptr;         // kView
  const view::SysFile* sys_file = nullptr;  // kSysView
  std::uint64_t page_bytes = 0;             // of a file of huge pages
  const Entry* parent = nullptr;            // null for the roots of the scopes
  std::vector<const Entry*> children;

  static constexpr unsigned bit(Side side) { return 1U << static_cast<unsigned>(side); }
  bool is_directory() const { return S_ISDIR(mode); }
  bool is_link() const { return S_ISLNK(mode); }
  bool visible(Side side) const {
    return side == Side::kShared ? connections != 0 : (connections & bit(side)) != 0;
  }
  const Entry* child(std::string_view child_name, Side side) const;  // nullptr: none there
};

// Every entry that a container can have: the served files of view/files.h that this kernel has and
// what the host has in the directories of HostTree. What is in a cpuN or nodeN directory is there
// once, for all of them. Immutable; made again when CPUs come or go. The key of an entry is a hash
// of its scope and path, so it is the same in every process.
class Tree {
 public:
  // `host_has` tells whether the host has a file of /proc or /sys ("proc/meminfo").
  using HostHas = std::function<bool(const std::string& path)>;
  static Result<std::shared_ptr<const Tree>> build(const HostTree::Items& host,
                                                   const HostHas& host_has);

  const Entry& root() const { return root(Scope::kContainer); }  // a container's directory
  // A cpuN or nodeN directory, the link of a node to a CPU, the file of a process.
  const Entry& root(Scope scope) const { return *roots_[static_cast<std::size_t>(scope)]; }
  const Entry& cpu_parent() const { return *cpu_parent_; }  // holds the cpuN directories
  // Holds the nodeN directories; hidden without NUMA support.
  const Entry& node_parent() const { return *node_parent_; }
  const Entry* find(std::uint32_t key) const;
  const std::deque<Entry>& entries() const { return entries_; }

  // Relative to the root of the host or of a container's tree, for CPU or node `number` where the
  // scope is one of them: "sys/devices/system/cpu/cpu3/topology/core_id".
  static std::string path_of(const Entry& entry, unsigned number);

 private:
  Entry& add(Scope scope, const std::string& path, mode_t mode);
  Entry& directory(Scope scope, std::string_view path);
  void add_roots(const HostTree::Items& host);
  void add_view_files(const HostHas& host_has);
  Result<void> add_host(Scope scope, const std::vector<HostTree::Item>& items);
  static void show(Entry& entry, std::initializer_list<Side> connections);
  Result<void> assign_keys();

  std::deque<Entry> entries_;  // keeps addresses
  std::array<std::unordered_map<std::string, Entry*>, kScopes> by_path_;
  std::unordered_map<std::uint32_t, const Entry*> by_key_;
  std::array<const Entry*, kScopes> roots_{};
  const Entry* cpu_parent_ = nullptr;
  const Entry* node_parent_ = nullptr;
};

}  // namespace umwelt::fusefs
