// SPDX-License-Identifier: Apache-2.0
#include "fusefs/filesystem.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/parse.h"
#include "fusefs/connection.h"
#include "intercept/status.h"
#include "intercept/task.h"

namespace umwelt::fusefs {
namespace {

using container::Container;
using Source = Entry::Source;

// How old the text of a host file may be that changes without notice. Long enough for the reads of
// one program to get the parts of one text.
constexpr std::uint64_t kHostMaxAgeNs = 10'000'000;
constexpr std::uint64_t kSysfsFileSize = 4096;  // what sysfs says of all of its files
constexpr std::uint64_t kLiveSizeUnit = 8192;

// Offsets in a listing: 1 and 2 are "." and "..", then the entries (below the root: the containers
// by number), then the CPUs or nodes, so that none moves when another one comes or goes.
constexpr off_t kFirstItem = 3;
constexpr off_t kFirstNumbered = off_t{1} << 32;

bool in_sysfs(const Target& target) {
  return target.entry->scope == Scope::kCpu || target.entry->scope == Scope::kNode ||
         target.entry->path.starts_with("sys/");
}

// In the number of an opened file: who opened it may have triggers of any window. Kept there so
// that the next daemon knows, too.
constexpr std::uint64_t kAnyWindow = std::uint64_t{1} << 63;

// Of a text that is made anew by each read.
bool has_live_size(const Target& target) {
  return target.side != Side::kConfig && target.entry != nullptr && S_ISREG(target.entry->mode) &&
         !in_sysfs(target);
}

// A process asks right after it changed what its own file has.
LiveFiles::Subject subject_of(const Target& target) {
  return {target.container, target.container->generation(), target.id.value(),
          target.id.is_process() ? 0 : LiveFiles::kShareNs};
}

bool takes_triggers(const Target& target) {
  return target.entry != nullptr && S_ISREG(target.entry->mode) && (target.entry->mode & 0222) != 0;
}

NodeId node_of(const Target& parent, const Entry& entry) {
  return {parent.id.container, parent.id.instance, entry.key};
}

// The process whose file `name` is, if it is one.
std::optional<pid_t> process_in(const Target& directory, const std::string& name) {
  if (directory.side != Side::kLive || directory.entry != &directory.tree->root())
    return std::nullopt;
  return intercept::parse_status_name(name);
}

// The shown CPUs that are on a node.
std::vector<const view::ShownCpu*> cpus_of_node(const view::Resources& now, unsigned node) {
  std::vector<const view::ShownCpu*> cpus;
  for (const host::Node& candidate : now.host.cpus->nodes)
    for (const view::ShownCpu& cpu : now.cpus.shown)
      if (candidate.id == node && candidate.cpus.test(cpu.physical)) cpus.push_back(&cpu);
  return cpus;
}

}  // namespace

Filesystem::Filesystem(container::Registry& registry, HostTree host)
    : registry_(registry), host_(std::move(host)) {
  ::clock_gettime(CLOCK_REALTIME, &start_);
}

Result<std::unique_ptr<Filesystem>> Filesystem::make(container::Registry& registry) {
  HostTree host = UMWELT_TRY(HostTree::open());
  std::unique_ptr<Filesystem> filesystem(new Filesystem(registry, std::move(host)));
  UMWELT_CHECK(filesystem->rebuild_tree());
  filesystem->triggers_ = UMWELT_TRY(Triggers::start());
  return filesystem;
}

std::shared_ptr<const Tree> Filesystem::tree() const {
  const std::lock_guard lock(tree_mutex_);
  return tree_;
}

Result<void> Filesystem::rebuild_tree() {
  const HostTree::Items host = UMWELT_TRY(host_.scan());
  auto tree =
      UMWELT_TRY(Tree::build(host, [&](const std::string& path) { return host_.exists(path); }));
  const std::lock_guard lock(tree_mutex_);
  tree_ = std::move(tree);
  return {};
}

Result<Target> Filesystem::resolve(std::uint64_t node, Side connection, pid_t caller) const {
  Target target;
  target.id = NodeId::from(node);
  target.side = connection;
  target.caller = caller;
  target.tree = tree();
  if (node == NodeId::kRoot) return target;
  if (target.id.container == 0) {
    if (connection == Side::kConfig || target.id.is_process()) return fail(ENOENT, "node");
    if (connection == Side::kLive) target.side = Side::kShared;
  } else {
    target.container = registry_.find(target.id.container);
    if (!target.container) return fail(ENOENT, "container");
  }
  target.entry = target.id.is_process() ? &target.tree->root(Scope::kProcess)
                                        : target.tree->find(target.id.key);
  if (target.entry == nullptr || !target.entry->visible(target.side)) return fail(ENOENT, "node");
  if (target.id.instance.has_value() != (target.entry->scope != Scope::kContainer))
    return fail(ENOENT, "node");
  return target;
}

Result<std::shared_ptr<Container>> Filesystem::container_of(const Target& target) const {
  if (target.container) return target.container;
  auto container = registry_.by_caller(target.caller);
  if (!container)
    return fail(EIO, "container of process " + std::to_string(target.caller) + ": " +
                         container.error().message());
  return container;
}

Result<view::Resources> Filesystem::resources(const Target& target, unsigned needs) const {
  const auto container = UMWELT_TRY(container_of(target));
  auto resources = container->resources(needs);
  if (!resources && resources.error().code == ENODEV && !target.container) {
    // The caller was moved since its container was found, and that one's cgroup is gone.
    resources = UMWELT_TRY(container_of(target))->resources(needs);
  }
  if (!resources) return fail(EIO, resources.error().message());
  return resources;
}

ConfigFiles::Validity Filesystem::validity(const Target& target) {
  if (!target.entry->stable) return {0, kHostMaxAgeNs};
  return {gate_.generation(target.id.container, target.container->generation()), 0};
}

// What stands for a CPU or a node in `directory`; nullopt for a name that is none.
Result<std::optional<Target>> Filesystem::look_up_numbered(const Target& directory,
                                                           const std::string& name) const {
  const Tree& tree = *directory.tree;
  const bool of_node = directory.entry == &tree.root(Scope::kNode);
  std::optional<unsigned> number;
  Target found = directory;
  if (directory.entry == &tree.cpu_parent() || of_node) {
    number = parse_numbered(name, "cpu");
    found.entry = &tree.root(of_node ? Scope::kNodeCpu : Scope::kCpu);
  } else if (directory.entry == &tree.node_parent()) {
    number = parse_numbered(name, "node");
    found.entry = &tree.root(Scope::kNode);
  }
  if (!number) return std::optional<Target>();
  const view::Resources now = UMWELT_TRY(resources(directory, 0));
  bool there = found.entry->scope == Scope::kNode ? now.nodes.online.test(*number)
                                                  : now.cpus.by_id(*number) != nullptr;
  if (of_node) {
    const auto cpus = cpus_of_node(now, *directory.id.instance);
    there =
        std::any_of(cpus.begin(), cpus.end(), [&](const auto* cpu) { return cpu->id == *number; });
  }
  if (!there) return fail(ENOENT, "cpu or node");
  found.id.instance = number;
  return std::optional(std::move(found));
}

Result<Attributes> Filesystem::look_up(const Target& directory, const std::string& name) {
  Target found = directory;
  const auto process = process_in(directory, name);
  if (process) {
    if (!intercept::is_of_container(*process, directory.container->record()))
      return fail(ENOENT, "process");
    found.entry = &directory.tree->root(Scope::kProcess);
    found.id.instance = NodeId::kProcess;
  } else if (directory.entry == nullptr) {
    found.entry = &directory.tree->root();
    if (directory.side != Side::kConfig && name == kSharedName) {
      if (directory.side == Side::kLive) found.side = Side::kShared;
    } else {
      found.container = registry_.find(name);
      if (!found.container || found.container->record().number > NodeId::kMaxContainer)
        return fail(ENOENT, "container");
      found.id.container = found.container->record().number;
    }
  } else if (auto numbered = UMWELT_TRY(look_up_numbered(directory, name))) {
    found = *std::move(numbered);
  } else {
    found.entry = directory.entry->child(name, directory.side);
    if (found.entry == nullptr) return fail(ENOENT, "name");
    if (found.entry->scope != Scope::kContainer && !host_.exists(UMWELT_TRY(host_path(found))))
      return fail(ENOENT, "host file");
  }
  found.id.key = process ? static_cast<std::uint32_t>(*process) : found.entry->key;
  if (!has_live_size(found)) return attributes(found);
  // Whoever mounts the files looks up all of them, and the texts of some take milliseconds. The
  // kernel asks for the attributes again before it opens one.
  Attributes result = attributes_without_size(found);
  result.size = kLiveSizeUnit;
  result.cacheable = false;
  return result;
}

Attributes Filesystem::attributes_without_size(const Target& target) const {
  Attributes result;
  result.node = target.id.value();
  result.mtime = start_;
  if (target.entry == nullptr) {
    // A container reaches its tree by its own mounts only, and nobody but root the others'.
    result.node = NodeId::kRoot;
    result.mode = S_IFDIR | 0500;
    return result;
  }
  result.mode = target.entry->mode;
  // In the shared tree everybody has other CPUs.
  if (target.side == Side::kShared && target.id.instance)
    result.cacheable = result.name_cacheable = false;
  // A CPU may be on another node later, under dense ids.
  if (target.entry->scope == Scope::kNodeCpu) result.name_cacheable = false;
  return result;
}

Result<Attributes> Filesystem::attributes(const Target& target) {
  Attributes result = attributes_without_size(target);
  if (!S_ISREG(result.mode)) {
    // The kernel keeps the name of a CPU's directory when the CPU goes, and learns of it here.
    if (target.side == Side::kConfig && target.id.instance) UMWELT_TRY(host_path(target));
    return result;
  }
  if (target.side != Side::kConfig) {
    result.size = has_live_size(target) ? live_size(target) : kSysfsFileSize;
    return result;
  }
  result.cacheable = target.entry->stable;
  auto version =
      config_files_.describe(result.node, validity(target), [&] { return render(target); });
  if (version) {
    result.size = version->text->size();
    result.mtime = version->mtime;
  } else if (version.error().code == ENOENT) {
    return fail(version.error());  // a CPU went, or this one has no such file
  } else if (target.entry->source == Source::kHost || target.entry->source == Source::kSysView) {
    // The file is there, only its content can't be had now (a CPU went to sleep, root may not read
    // it either): the read will say why.
    result.size = kSysfsFileSize;
  } else {
    return fail(version.error());
  }
  return result;
}

// The kernel gives a file of direct_io to sendfile(2) by its page cache (since Linux 6.5), and the
// size that procfs shows, 0, would end that at once: busybox's cat would print nothing. With
// another size it asks us and is refused (see read), so programs go on with read(2), for which the
// size means nothing. tail(1) seeks to the last 8192 bytes (BUFSIZ) before it: there must be text.
// Of a pressure file it is asked for at every fstat(2) after a read (ConnectionKind): no reason to
// make the text again.
std::uint64_t Filesystem::live_size(const Target& target) {
  Target own = target;
  std::uint64_t size = 0;
  if (auto container = container_of(target)) {
    own.container = *std::move(container);
    size = live_files_.size(subject_of(own), [&] { return render(own); }).value_or(0);
  }
  return std::max<std::uint64_t>(1, (size + kLiveSizeUnit - 1) / kLiveSizeUnit) * kLiveSizeUnit;
}

Result<std::string> Filesystem::read_link(const Target& target) const {
  if (target.entry == nullptr || !target.entry->is_link()) return fail(EINVAL, "readlink");
  if (target.entry->source == Source::kCpuLink)
    return "../../cpu/cpu" + std::to_string(*target.id.instance);
  return host_.read_link(UMWELT_TRY(host_path(target)));
}

Result<Text> Filesystem::read_config(const Target& target) {
  if (target.entry == nullptr) return fail(EISDIR, "read");
  return config_files_.content(target.id.value(), validity(target), [&] { return render(target); });
}

Result<Text> Filesystem::read_live(const Target& target, std::uint64_t handle, off_t offset,
                                   std::uint64_t request) {
  if (target.entry == nullptr) return fail(EISDIR, "read");
  if (offset != 0)
    if (Text text = live_files_.snapshot(handle)) return text;
  Target own = target;
  own.container = UMWELT_TRY(container_of(target));
  const auto read = [&] {
    return live_files_.take_snapshot(
        handle, subject_of(own), [&] { return render(own); }, request);
  };
  auto text = read();
  if (!text && !target.container && own.container->gone()) {
    // The caller was moved since its container was found.
    own.container = UMWELT_TRY(container_of(target));
    text = read();
  }
  return text;
}

Result<std::uint64_t> Filesystem::open_for_writing(const Target& target) {
  if (!takes_triggers(target)) return fail(EROFS, "open");
  const std::uint64_t handle = live_files_.open();
  return may_use_any_window(target.caller) ? handle | kAnyWindow : handle;
}

void Filesystem::release_live(std::uint64_t handle) {
  live_files_.release(handle);
  triggers_->release(handle);
}

Result<void> Filesystem::arm_trigger(const Target& target, std::uint64_t handle, uid_t user,
                                     std::string_view text, Triggers::Done done) {
  if (!takes_triggers(target)) return fail(EROFS, "write");
  text = trim(text.substr(0, text.find('\0')));
  if (!UMWELT_TRY(has_slow_window(text)) && (handle & kAnyWindow) == 0)
    return fail(EINVAL, "trigger");
  const auto container = UMWELT_TRY(container_of(target));
  const auto open = [container, resource = std::string(target.entry->name)]() -> Result<UniqueFd> {
    auto file = container->open_pressure(resource);
    if (!file && file.error().code == ENOENT) return fail(EOPNOTSUPP, file.error().text);
    return file;
  };
  triggers_->arm(handle, {container, user, std::string(text), open}, std::move(done));
  return {};
}

short Filesystem::poll(const Target& target, std::uint64_t handle, Triggers::Wake wake) {
  constexpr short kAlways = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;  // DEFAULT_POLLMASK
  if (!takes_triggers(target)) return kAlways;
  return static_cast<short>(kAlways | triggers_->poll(handle, std::move(wake)));
}

void Filesystem::list_containers(Side side, std::vector<DirectoryItem>& items) const {
  const Entry& root = tree()->root();
  if (side != Side::kConfig)
    items.push_back(
        {std::string(kSharedName), NodeId{0, {}, root.key}.value(), root.mode, kFirstItem});
  for (const auto& container : registry_.all()) {
    const std::uint64_t number = container->record().number;
    if (number > NodeId::kMaxContainer) continue;
    items.push_back({container->record().id, NodeId{number, {}, root.key}.value(), root.mode,
                     kFirstItem + static_cast<off_t>(number)});
  }
}

Result<void> Filesystem::list_entries(const Target& directory,
                                      std::vector<DirectoryItem>& items) const {
  const bool is_numbered = directory.entry->scope != Scope::kContainer;
  const std::string host_prefix = is_numbered ? UMWELT_TRY(host_path(directory)) + "/" : "";
  off_t offset = kFirstItem;
  for (const Entry* entry : directory.entry->children) {
    const off_t next_offset = offset++;
    if (!entry->visible(directory.side)) continue;
    if (is_numbered && !host_.exists(host_prefix + std::string(entry->name))) continue;
    items.push_back(
        {std::string(entry->name), node_of(directory, *entry).value(), entry->mode, next_offset});
  }
  return list_numbered(directory, items);
}

Result<void> Filesystem::list_numbered(const Target& directory,
                                       std::vector<DirectoryItem>& items) const {
  const Tree& tree = *directory.tree;
  const auto add = [&](const char* stem, unsigned number, const Entry& entry) {
    items.push_back({stem + std::to_string(number),
                     NodeId{directory.id.container, number, entry.key}.value(), entry.mode,
                     kFirstNumbered + number});
  };
  if (directory.entry == &tree.cpu_parent()) {
    for (const view::ShownCpu& cpu : UMWELT_TRY(resources(directory, 0)).cpus.shown)
      add("cpu", cpu.id, tree.root(Scope::kCpu));
  } else if (directory.entry == &tree.node_parent()) {
    for (const unsigned node : UMWELT_TRY(resources(directory, 0)).nodes.online.ids())
      add("node", node, tree.root(Scope::kNode));
  } else if (directory.entry == &tree.root(Scope::kNode)) {
    const view::Resources now = UMWELT_TRY(resources(directory, 0));
    for (const view::ShownCpu* cpu : cpus_of_node(now, *directory.id.instance))
      add("cpu", cpu->id, tree.root(Scope::kNodeCpu));
  }
  return {};
}

Result<std::vector<DirectoryItem>> Filesystem::list(const Target& directory, off_t offset) const {
  std::vector<DirectoryItem> items;
  items.push_back({".", directory.id.value(), S_IFDIR, 1});
  items.push_back({"..", NodeId::kRoot, S_IFDIR, 2});
  if (directory.entry == nullptr) {
    list_containers(directory.side, items);
  } else {
    if (!directory.entry->is_directory()) return fail(ENOTDIR, "list");
    UMWELT_CHECK(list_entries(directory, items));
  }
  std::erase_if(items, [&](const DirectoryItem& item) { return item.next_offset <= offset; });
  return items;
}

void Filesystem::set_connections(std::vector<Connection*> connections,
                                 const std::string& config_mount) {
  const std::lock_guard lock(change_mutex_);
  connections_ = std::move(connections);
  config_ = connections_.empty() ? nullptr : connections_.front();
  config_mount_ = config_mount;
  if (connections_.empty()) triggers_->stop();
}

}  // namespace umwelt::fusefs
