// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "container/registry.h"
#include "fusefs/config_files.h"
#include "fusefs/gate.h"
#include "fusefs/live_files.h"
#include "fusefs/node.h"
#include "fusefs/passthrough.h"
#include "fusefs/tree.h"
#include "fusefs/triggers.h"

namespace umwelt::fusefs {

class Connection;

// What a node id stands for, for the time of one request.
struct Target {
  NodeId id;
  Side side = Side::kConfig;
  pid_t caller = 0;
  std::shared_ptr<container::Container> container;  // null: the root, or the caller's own
  std::shared_ptr<const Tree> tree;
  const Entry* entry = nullptr;  // in `tree`; null: the root of the mount
};

struct Attributes {
  std::uint64_t node = 0;
  mode_t mode = 0;
  std::uint64_t size = 0;
  timespec mtime{};
  bool cacheable = true;       // by the kernel, until it is told otherwise
  bool name_cacheable = true;  // the name that led here
};

struct DirectoryItem {
  std::string name;
  std::uint64_t node = 0;
  mode_t mode = 0;
  off_t next_offset = 0;  // to go on behind it; the same at every listing
};

// What the files of a container below /sys/devices/system follow from.
struct SystemStory {
  std::vector<std::pair<unsigned, unsigned>> shown;  // (shown id, physical id)
  CpuSet host_online, present, possible, offline;
  CpuSet nodes, nodes_with_memory;
  friend bool operator==(const SystemStory&, const SystemStory&) = default;
};

// What the connections serve:
//
//   /ID/...                 the tree of container ID, each file on its own connection
//   /ID/processN            on the live connection: /proc/N/status of a process of it
//   /.shared/{proc,sys}     on the live connection: the whole tree of whoever reads it
//   /.shared/proc/pressure  on the pressure connection: the same
//
// Of FUSE it only knows that the kernel keeps what it was told. Thread-safe.
class Filesystem {
 public:
  // A container's id can't begin with a dot.
  static constexpr std::string_view kSharedName = ".shared";

  // `registry` must outlive it.
  static Result<std::unique_ptr<Filesystem>> make(container::Registry& registry);

  // From now on the kernel is told of changes through these, in the order of Side (none: no longer,
  // and triggers end). `config_mount` is where this process sees the config connection.
  void set_connections(std::vector<Connection*> connections, const std::string& config_mount);

  // What requests ask. ENOENT for what is not there (any more); EIO when the container's figures
  // can't be had.
  Result<Target> resolve(std::uint64_t node, Side connection, pid_t caller) const;
  // The size of a live file is that of a text only for attributes().
  Result<Attributes> look_up(const Target& directory, const std::string& name);
  Result<Attributes> attributes(const Target& target);
  Result<std::string> read_link(const Target& target) const;
  // In the order of their offsets, those behind `offset`.
  Result<std::vector<DirectoryItem>> list(const Target& directory, off_t offset) const;
  // The text of which a read gets its part. `handle` is the opened file's.
  Result<Text> read_config(const Target& target);
  Result<Text> read_live(const Target& target, std::uint64_t handle, off_t offset,
                         std::uint64_t request);

  // Whether the node's container is at a change, of which requests that describe it must not tell
  // yet.
  bool is_changing(std::uint64_t node, Side connection, pid_t tid) {
    return connection == Side::kConfig && gate_.is_closed(NodeId::from(node).container, tid);
  }
  // Whether a request about a node that describes it must wait: then it is run later, by another
  // thread. Asked before attributes() and look_up().
  bool hold(std::uint64_t node, Side connection, Gate::Request request) {
    return connection == Side::kConfig &&
           gate_.hold(NodeId::from(node).container, std::move(request));
  }

  // Texts that outlive this process (LiveFiles::set_snapshots, ConfigFiles::set_descriptions).
  void set_outliving(Snapshots* snapshots, Snapshots* descriptions) {
    live_files_.set_snapshots(snapshots);
    config_files_.set_descriptions(descriptions);
  }

  // The number of a file that was opened on a live connection; for writing EROFS but for a
  // pressure file.
  std::uint64_t open_live() { return live_files_.open(); }
  Result<std::uint64_t> open_for_writing(const Target& target);
  void release_live(std::uint64_t handle);

  // A trigger was written to a pressure file by user `user`. EINVAL when it is none, or the one who
  // opened the file may not have it. `done` is called later, by another thread.
  Result<void> arm_trigger(const Target& target, std::uint64_t handle, uid_t user,
                           std::string_view text, Triggers::Done done);
  // The events of poll(2) that hold; `wake` is called when there may be others.
  short poll(const Target& target, std::uint64_t handle, Triggers::Wake wake);

  // Tell the kernel, after a change; when they return, every read sees what is now. Not for threads
  // that serve requests.
  void container_changed(container::Container& container);
  void container_removed(const container::Record& record);

 private:
  Filesystem(container::Registry& registry, HostTree host);

  std::shared_ptr<const Tree> tree() const;
  Result<void> rebuild_tree();
  Result<std::shared_ptr<container::Container>> container_of(const Target& target) const;
  Result<view::Resources> resources(const Target& target, unsigned needs) const;
  static Result<std::string> host_path(const Target& target, const view::Resources& now);
  Result<std::string> host_path(const Target& target) const;
  Result<std::string> render(const Target& target) const;
  Result<std::string> render_sys_file(const Target& target) const;
  Result<std::string> render_status(const Target& target) const;
  Result<std::optional<Target>> look_up_numbered(const Target& directory,
                                                 const std::string& name) const;
  Result<void> list_numbered(const Target& directory, std::vector<DirectoryItem>& items) const;
  Attributes attributes_without_size(const Target& target) const;
  std::uint64_t live_size(const Target& target);
  ConfigFiles::Validity validity(const Target& target);
  void list_containers(Side side, std::vector<DirectoryItem>& items) const;
  Result<void> list_entries(const Target& directory, std::vector<DirectoryItem>& items) const;

  // Nodes of which the kernel was told, by whether it was what they show now.
  struct Told {
    std::set<std::uint64_t> still_true, changed;
  };
  Told compare_with_told(std::uint64_t container, std::uint64_t generation);
  static std::vector<std::uint64_t> nodes_to_forget(std::uint64_t container, const Tree& tree,
                                                    const CpuSet& cpus, const CpuSet& nodes,
                                                    const Told& told);
  void let_programs_finish(const Tree& tree, std::uint64_t container);
  void settle(const Tree& tree, std::uint64_t node, const std::string& container_id);
  void settle_all(const Tree& tree, const container::Record& record,
                  const std::set<std::uint64_t>& nodes);
  void settle_and_open(const Tree& tree, const container::Container& container,
                       std::uint64_t generation, const std::set<std::uint64_t>& nodes);
  static SystemStory read_story(container::Container& container);

  container::Registry& registry_;
  HostTree host_;
  timespec start_{};
  Gate gate_;
  ConfigFiles config_files_;
  LiveFiles live_files_;
  std::unique_ptr<Triggers> triggers_;

  mutable std::mutex tree_mutex_;
  std::shared_ptr<const Tree> tree_;

  std::mutex change_mutex_;  // one change at a time; guards what follows
  std::vector<Connection*> connections_;
  Connection* config_ = nullptr;  // the first of them
  std::string config_mount_;
  CpuSet host_online_;                            // as of the tree
  std::map<std::uint64_t, SystemStory> stories_;  // by container, as the kernel was last told
};

}  // namespace umwelt::fusefs
