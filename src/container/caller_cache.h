// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "container/caller.h"
#include "container/container.h"

namespace umwelt::container {

// A container made on demand that nobody reads, as far as one that is made later goes on from it.
struct Kept {
  Record record;
  std::string history;        // path of its HistoryFile
  std::uint64_t used_ns = 0;  // CLOCK_BOOTTIME, when it was last shown something; 0: never
};

// Who asked, and what the answer was: the text of /proc/PID/cgroup to a registered container, or
// with the caller's namespaces to one made on demand. Not thread-safe: the registry's lock guards
// it; const functions may run at the same time. Bounded: a caller can't make it grow for ever.
class CallerCache {
 public:
  using ContainerPtr = std::shared_ptr<Container>;
  static constexpr std::size_t kMaxTexts = 4096;
  // Fewer where that takes too many descriptors.
  static constexpr std::size_t kMaxContainers = 1024;
  static constexpr std::size_t kMaxKept = 1024;
  static constexpr std::size_t kMaxOfOneCgroup = 8;

  CallerCache();

  // nullptr: not known.
  ContainerPtr registered(std::string_view cgroup_text) const;
  ContainerPtr on_demand(std::string_view cgroup_text, const Namespaces& namespaces,
                         std::uint64_t now_ns) const;
  // The same, however old.
  ContainerPtr last_answer(std::string_view cgroup_text, const Namespaces& namespaces) const;
  // Made on demand before, for a caller of the same cgroups and the same pid namespace.
  ContainerPtr find(const Record& record) const;
  // Of the same cgroups, whatever the pid namespace: for who has an init that can't be told.
  ContainerPtr find_any(const cgroup::Paths& paths) const;

  void remember_registered(const std::string& cgroup_text, const ContainerPtr& container);
  void remember(const std::string& cgroup_text, const Namespaces& namespaces,
                const ContainerPtr& container, std::uint64_t now_ns);
  // Makes room by dropping the one that was not read for the longest time, of its own cgroups
  // first.
  void insert(const ContainerPtr& container);
  // Drops all, for their descriptors.
  void clear();

  // What is left of a container that was dropped, until insert() has it again.
  std::optional<Kept> find_kept(const Record& record) const;
  std::optional<Kept> find_any_kept(const cgroup::Paths& paths) const;
  void keep(Kept kept);  // makes room as insert() does
  // The histories of those that no later one will go on from, since the last call.
  std::vector<std::string> take_dropped() { return std::exchange(dropped_, {}); }

  // After a registration or its end: other containers may be the answer now.
  void forget_callers() { texts_.clear(); }
  // Drops containers that are gone or were not read for a minute, and answers that are out of date.
  void sweep(std::uint64_t now_ns);

  std::vector<ContainerPtr> containers() const;

 private:
  // The cgroups, and the start of the pid namespace's init (0: not told): of two namespaces that
  // share a cgroup each has its own uptime, and its own idle time with it.
  using Key = std::pair<cgroup::Paths, std::uint64_t>;
  struct Answer {
    Namespaces namespaces;
    std::weak_ptr<Container> container;  // one that is dropped keeps its history no longer
    std::uint64_t given_ns = 0;
  };
  struct Known {
    ContainerPtr registered;
    std::vector<Answer> answers;
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>()(text);
    }
  };
  static Key key_of(const Record& record) { return {record.cgroup_paths, record.init_starttime}; }
  Known& known(const std::string& cgroup_text);
  void keep_or_drop(const Container& container);

  // Of the same cgroups.
  template <class Map>
  static auto cgroup_range(Map& map, const Key& key) {
    return std::pair(map.lower_bound({key.first, 0}),
                     map.upper_bound({key.first, ~std::uint64_t{0}}));
  }
  using Containers = std::map<Key, ContainerPtr>;
  using KeptContainers = std::map<Key, Kept>;
  void drop_oldest(Containers::iterator begin, Containers::iterator end);
  void forget_oldest(KeptContainers::iterator begin, KeptContainers::iterator end);

  const std::size_t max_containers_;
  std::unordered_map<std::string, Known, Hash, std::equal_to<>> texts_;
  Containers containers_;
  KeptContainers kept_;
  std::vector<std::string> dropped_;
};

}  // namespace umwelt::container
