// SPDX-License-Identifier: Apache-2.0
// What the kernel is told when the limits of a container change: docs/architecture.md, "One change,
// one step".
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <thread>
#include <utility>

#include "base/log.h"
#include "base/unique_fd.h"
#include "fusefs/connection.h"
#include "fusefs/filesystem.h"

namespace umwelt::fusefs {
namespace {

using container::Container;

// How long a program that has a file open is given to read it to its end, and one read(2).
constexpr std::chrono::milliseconds kProgramGrace{5}, kReadersGrace{1};
constexpr std::chrono::milliseconds kSettlePatience{20};

CpuSet shown_ids(const SystemStory& story) {
  CpuSet ids;
  for (const auto& [id, physical] : story.shown) ids.set(id);
  return ids;
}

}  // namespace

SystemStory Filesystem::read_story(Container& container) {
  SystemStory story;
  const auto now = container.resources(0);
  if (!now) return story;
  for (const view::ShownCpu& cpu : now->cpus.shown) story.shown.push_back({cpu.id, cpu.physical});
  story.present = now->cpus.present;
  story.possible = now->cpus.possible;
  story.offline = now->cpus.offline;
  story.host_online = now->host.cpus->online;
  story.nodes = now->nodes.online;
  story.nodes_with_memory = now->nodes.has_memory;
  return story;
}

// Has the kernel ask for the attributes, as a reader would. What readers asked for before is no use
// to it any more: it takes no attributes that were asked for before an invalidation.
//
// Only of what it has in its cache: any other name is looked up under a lock of the directory, for
// which this would wait as long as a container holds it. Nobody has read what is not in there.
void Filesystem::settle(const Tree& tree, std::uint64_t node, const std::string& container_id) {
  const NodeId id = NodeId::from(node);
  const Entry* entry = tree.find(id.key);
  if (entry == nullptr || !entry->stable) return;
  const std::string path =
      config_mount_ + "/" + container_id + "/" + Tree::path_of(*entry, id.instance.value_or(0));
  open_how how{};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_CACHED;
  const UniqueFd file(
      static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof(how))));
  if (!file) return;
  struct statx status {};
  ::statx(file.get(), "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_SIZE, &status);
}

// The directories first whose attributes were taken back as well: there is no way through them from
// the cache alone.
void Filesystem::settle_all(const Tree& tree, const container::Record& record,
                            const std::set<std::uint64_t>& nodes) {
  std::set<std::uint64_t> directories;
  for (const Entry* directory : {&tree.cpu_parent(), &tree.node_parent()})
    settle(tree, NodeId{record.number, {}, directory->key}.value(), record.id);
  for (const std::uint64_t node : nodes) {
    const NodeId id = NodeId::from(node);
    const Entry* entry = tree.find(id.key);
    if (entry != nullptr && id.instance)
      directories.insert(NodeId{id.container, id.instance, tree.root(entry->scope).key}.value());
  }
  for (const std::uint64_t node : directories) settle(tree, node, record.id);
  for (const std::uint64_t node : nodes) settle(tree, node, record.id);
}

// Whoever opens a file by a path has the kernel check the permissions of its directories, which
// asks for their attributes now, and waits. What is open goes on with what the kernel knows.
void Filesystem::let_programs_finish(const Tree& tree, std::uint64_t container) {
  for (const Entry* directory : {&tree.cpu_parent(), &tree.node_parent()})
    config_->forget_node(NodeId{container, {}, directory->key}.value());
  std::this_thread::sleep_for(kProgramGrace);
}

void Filesystem::settle_and_open(const Tree& tree, const Container& container,
                                 std::uint64_t generation, const std::set<std::uint64_t>& nodes) {
  const container::Record& record = container.record();
  std::promise<void> settled;
  std::thread settler([&] {
    gate_.settle(record.number, generation, ::gettid());
    settle_all(tree, record, nodes);
    settled.set_value();
  });
  // Not without end: a name that is looked up and held back is in the way of its file.
  settled.get_future().wait_for(kSettlePatience);
  gate_.open(record.number, generation);
  settler.join();
}

Filesystem::Told Filesystem::compare_with_told(std::uint64_t container, std::uint64_t generation) {
  Told told;
  for (const std::uint64_t node : config_files_.nodes_of(container)) {
    const auto target = resolve(node, Side::kConfig, 0);
    if (!target || !target->entry->stable) continue;
    const auto text = render(*target);
    const bool same = text && config_files_.confirm(node, generation, *text);
    (same ? told.still_true : told.changed).insert(node);
  }
  return told;
}

// Every node of the container whose text may have changed, also those that only an earlier process
// has told the kernel of; and the directories of CPUs and nodes, which may have gone. Their names
// the kernel keeps: to forget one it would lock the directory, for which this would wait as long as
// a container holds it (by a getdents64(2) into a page that some other server never brings).
std::vector<std::uint64_t> Filesystem::nodes_to_forget(std::uint64_t container, const Tree& tree,
                                                       const CpuSet& cpus, const CpuSet& nodes,
                                                       const Told& told) {
  std::vector<std::uint64_t> result;
  const auto add = [&](const Entry& entry, std::optional<unsigned> instance) {
    const std::uint64_t node = NodeId{container, instance, entry.key}.value();
    if (!told.still_true.contains(node)) result.push_back(node);
  };
  for (const Entry& entry : tree.entries()) {
    const bool is_numbered =
        &entry == &tree.root(Scope::kCpu) || &entry == &tree.root(Scope::kNode);
    if (!S_ISREG(entry.mode) && !is_numbered) continue;
    if (!entry.stable || !entry.visible(Side::kConfig)) continue;
    if (entry.scope == Scope::kContainer) add(entry, {});
    if (entry.scope == Scope::kCpu)
      for (const unsigned cpu : cpus.ids()) add(entry, cpu);
    if (entry.scope == Scope::kNode)
      for (const unsigned node : nodes.ids()) add(entry, node);
  }
  return result;
}

void Filesystem::container_changed(Container& container) {
  const std::lock_guard lock(change_mutex_);
  if (config_ == nullptr) return;
  const std::uint64_t number = container.record().number;
  const std::uint64_t generation = container.generation();
  const SystemStory story = read_story(container);
  if (story.host_online != host_online_ && !story.host_online.empty()) {
    if (const auto rebuilt = rebuild_tree(); !rebuilt)
      spdlog::error("{}", rebuilt.error().message());
    host_online_ = story.host_online;
  }
  SystemStory before = std::exchange(stories_[number], story);
  const bool first = before.shown.empty();
  if (first) {  // an earlier process may have told the kernel of any
    const unsigned last =
        std::max(story.possible.last().value_or(0), story.host_online.last().value_or(0));
    for (unsigned cpu = 0; cpu <= last; ++cpu) before.shown.push_back({cpu, cpu});
    before.nodes = CpuSet::range(0, story.nodes.last().value_or(0));
  }

  const auto tree = this->tree();
  if (first)
    config_files_.recall_all(number, generation,
                             nodes_to_forget(number, *tree, shown_ids(before), before.nodes, {}));
  const Told told = compare_with_told(number, generation);
  CpuSet cpus, nodes;
  if (before != story) {
    cpus = shown_ids(before) | shown_ids(story);
    nodes = before.nodes | story.nodes;
  }
  gate_.close(number);
  if (!told.changed.empty()) let_programs_finish(*tree, number);
  for (const std::uint64_t node : told.changed) config_files_.outdate(node);
  for (const std::uint64_t node : nodes_to_forget(number, *tree, cpus, nodes, told))
    config_->forget_node(node);
  if (told.changed.empty()) {
    gate_.open(number, generation);
  } else {
    std::this_thread::sleep_for(kReadersGrace);
    for (const std::uint64_t node : told.changed)
      if (config_files_.was_read(node)) config_->forget_node(node);
    settle_and_open(*tree, container, generation, told.changed);
  }
}

void Filesystem::container_removed(const container::Record& record) {
  const std::lock_guard lock(change_mutex_);
  config_files_.forget_container(record.number);
  gate_.forget(record.number);
  stories_.erase(record.number);
  for (Connection* connection : connections_) connection->forget_name(NodeId::kRoot, record.id);
}

}  // namespace umwelt::fusefs
