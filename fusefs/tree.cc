// SPDX-License-Identifier: Apache-2.0
#include "fusefs/tree.h"

#include <algorithm>
#include <tuple>

#include "base/parse.h"
#include "cgroup/parse.h"
#include "fusefs/node.h"

namespace umwelt::fusefs {
namespace {

constexpr const char* kMemoryBlocks = "sys/devices/system/memory";
constexpr mode_t kPermissions = 07555;  // all but write

// Of the files of one CPU.
bool changes_with_hotplug_only(const Entry& entry) {
  return entry.scope == Scope::kCpu &&
         (entry.path.starts_with("topology/") || entry.path.starts_with("cache/"));
}

// FNV-1a, folded to the bits of a key.
std::uint32_t hash_key(Scope scope, std::string_view path) {
  std::uint64_t hash = 0xcbf29ce484222325U + static_cast<unsigned>(scope);
  for (const char c : path) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return static_cast<std::uint32_t>(hash ^ hash >> 26 ^ hash >> 52) & NodeId::kMaxKey;
}

// Of the directory "hugepages-2048kB" on the way; 0 without one.
std::uint64_t page_bytes_of(std::string_view path) {
  while (!path.empty())
    if (const auto bytes = cgroup::parse_huge_page_directory(next_part(path, '/'))) return *bytes;
  return 0;
}

}  // namespace

const Entry* Entry::child(std::string_view child_name, Side side) const {
  for (const Entry* entry : children) {
    if (entry->name == child_name) return entry->visible(side) ? entry : nullptr;
  }
  return nullptr;
}

std::string Tree::path_of(const Entry& entry, unsigned number) {
  const std::string numbered = std::to_string(number);
  const std::string below = entry.path.empty() ? "" : "/" + entry.path;
  switch (entry.scope) {
    case Scope::kContainer:
      break;
    case Scope::kCpu:
      return std::string(HostTree::kCpuDirectory) + "/cpu" + numbered + below;
    case Scope::kNode:
      return std::string(HostTree::kNodeDirectory) + "/node" + numbered + below;
    case Scope::kNodeCpu:
    case Scope::kProcess:
      return {};  // is in no path by itself
  }
  return entry.path;
}

Entry& Tree::add(Scope scope, const std::string& path, mode_t mode) {
  auto [item, is_new] = by_path_[static_cast<std::size_t>(scope)].try_emplace(path, nullptr);
  if (!is_new) return *item->second;
  Entry& entry = entries_.emplace_back();
  item->second = &entry;
  entry.path = path;
  entry.mode = mode;
  entry.scope = scope;
  if (path.empty()) return entry;
  const std::size_t slash = path.rfind('/');
  entry.name = std::string_view(entry.path).substr(slash == std::string::npos ? 0 : slash + 1);
  Entry& parent = directory(scope, slash == std::string::npos ? "" : path.substr(0, slash));
  entry.parent = &parent;
  parent.children.push_back(&entry);
  return entry;
}

Entry& Tree::directory(Scope scope, std::string_view path) {
  return add(scope, std::string(path), S_IFDIR | 0555);
}

// A directory is where one of its files is.
void Tree::show(Entry& entry, std::initializer_list<Side> connections) {
  for (Entry* e = &entry; e != nullptr; e = const_cast<Entry*>(e->parent))
    for (const Side side : connections) e->connections |= Entry::bit(side);
}

void Tree::add_roots(const HostTree::Items& host) {
  for (const Scope scope : {Scope::kContainer, Scope::kCpu, Scope::kNode}) {
    Entry& root = directory(scope, "");
    if (scope != Scope::kContainer) root.source = Entry::Source::kHostDirectory;
    show(root, {Side::kConfig});
    if (scope == Scope::kContainer) show(root, {Side::kLive, Side::kPressure});
    roots_[static_cast<std::size_t>(scope)] = &root;
  }
  Entry& link = add(Scope::kNodeCpu, "", S_IFLNK | 0777);
  link.source = Entry::Source::kCpuLink;
  show(link, {Side::kConfig});
  roots_[static_cast<std::size_t>(Scope::kNodeCpu)] = &link;
  Entry& status = add(Scope::kProcess, "", S_IFREG | 0444);
  status.source = Entry::Source::kProcessStatus;
  show(status, {Side::kLive});
  roots_[static_cast<std::size_t>(Scope::kProcess)] = &status;

  Entry& cpu_parent = directory(Scope::kContainer, HostTree::kCpuDirectory);
  show(cpu_parent, {Side::kConfig});
  cpu_parent_ = &cpu_parent;
  Entry& node_parent = directory(Scope::kContainer, HostTree::kNodeDirectory);
  if (!host.per_node.empty()) show(node_parent, {Side::kConfig});
  node_parent_ = &node_parent;
}

void Tree::add_view_files(const HostHas& host_has) {
  // Empty: no cgroup has a part of the machine's blocks.
  if (host_has(kMemoryBlocks)) show(directory(Scope::kContainer, kMemoryBlocks), {Side::kConfig});
  for (const view::File& file : view::files()) {
    const std::string path(file.path);
    const bool of_kernel = path.starts_with("proc/") || path.starts_with("sys/");
    if (of_kernel && !host_has(path)) continue;
    Entry& entry = add(Scope::kContainer, path, S_IFREG | file.mode);
    entry.source = Entry::Source::kView;
    entry.file = &file;
    show(entry, {side_of(file.connection)});
  }
}

Result<void> Tree::add_host(Scope scope, const std::vector<HostTree::Item>& items) {
  for (const HostTree::Item& item : items) {
    const mode_t type = item.mode & S_IFMT;
    if (type != S_IFREG && type != S_IFDIR && type != S_IFLNK) continue;
    Entry& entry = add(scope, item.path, type | (item.mode & kPermissions));
    if (entry.source == Entry::Source::kView) continue;
    if ((entry.mode & S_IFMT) != type) return fail(EINVAL, "the served file " + entry.path);
    entry.mode = type | (item.mode & kPermissions);
    show(entry, {Side::kConfig});
    if (type == S_IFREG) {
      entry.sys_file = view::find_sys_file(path_of(entry, 0));
      entry.source = entry.sys_file ? Entry::Source::kSysView : Entry::Source::kHost;
      entry.stable = entry.sys_file ? entry.sys_file->stable : changes_with_hotplug_only(entry);
      entry.page_bytes = page_bytes_of(entry.path);
    } else {
      entry.source = type == S_IFDIR ? Entry::Source::kHostDirectory : Entry::Source::kHostLink;
    }
  }
  return {};
}

// In the order of the paths, so that also two paths of one hash get the same keys every time.
Result<void> Tree::assign_keys() {
  if (entries_.size() > NodeId::kMaxKey / 2) return fail(E2BIG, "the tree");
  std::vector<Entry*> sorted;
  for (Entry& entry : entries_) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(), [](const Entry* a, const Entry* b) {
    return std::tie(a->scope, a->path) < std::tie(b->scope, b->path);
  });
  for (Entry* entry : sorted) {
    entry->key = hash_key(entry->scope, entry->path);
    // 0 is no node and 1 is the root of the mount.
    while (entry->key <= NodeId::kRoot || !by_key_.try_emplace(entry->key, entry).second)
      entry->key = (entry->key + 1) & NodeId::kMaxKey;
  }
  return {};
}

Result<std::shared_ptr<const Tree>> Tree::build(const HostTree::Items& host,
                                                const HostHas& host_has) {
  auto tree = std::make_shared<Tree>();
  tree->add_roots(host);
  tree->add_view_files(host_has);
  UMWELT_CHECK(tree->add_host(Scope::kContainer, host.common));
  UMWELT_CHECK(tree->add_host(Scope::kCpu, host.per_cpu));
  UMWELT_CHECK(tree->add_host(Scope::kNode, host.per_node));
  UMWELT_CHECK(tree->assign_keys());
  return tree;
}

const Entry* Tree::find(std::uint32_t key) const {
  const auto item = by_key_.find(key);
  return item == by_key_.end() ? nullptr : item->second;
}

}  // namespace umwelt::fusefs
