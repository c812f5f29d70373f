// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <shared_mutex>
#include <string>
#include <vector>

#include "base/apart.h"
#include "container/caller.h"
#include "container/container.h"

namespace umwelt::container {

class CallerCache;
struct Kept;

// Who is a container. Thread-safe; look-ups share the lock, which is never held around I/O.
// Records are written to `records_dir`/ID.json before a registration is acknowledged; what their
// containers are shown, to ID.history, and of on-demand ones to callers/N.json and N.history.
class Registry {
 public:
  using ContainerPtr = std::shared_ptr<Container>;
  // Told of registered containers after they came (also by load()) and after they went; called by
  // whichever thread did it, without a lock that look-ups or changes of another id need. Must not
  // add or remove.
  struct Observer {
    std::function<void(const ContainerPtr&)> added, removed;
  };

  Registry(std::string records_dir, cgroup::Hierarchies hierarchies,
           std::shared_ptr<host::Reader> host);
  ~Registry();

  // Before load() and before other threads use the registry.
  void observe(Observer observer);

  // Reads the records back and drops those whose init process or cgroup is gone. Returns how many
  // were taken over. Creates `records_dir`. What can't be opened yet (a container keeps a directory
  // of its cgroup locked; no descriptor is left) is there after a later load_late().
  Result<unsigned> load();
  void load_late();

  // Fills in what the record leaves out and the process tells: starttime, cgroups, start. The same
  // id with the same init gives the container that is there, with its history also where load()
  // could not open it. EEXIST when the id is taken by another living container; ESRCH when init_pid
  // is no process, or not the one of init_starttime.
  Result<ContainerPtr> add(Record record);
  Result<void> remove(const std::string& id);  // ENOENT
  // Only this one, not a later one of the same id: no error when it is not registered.
  void remove(const ContainerPtr& container);

  ContainerPtr find(const std::string& id) const;
  ContainerPtr find(std::uint64_t number) const;
  std::vector<ContainerPtr> all() const;        // registered, in order of their numbers
  bool is_empty() const;                        // none is registered
  std::vector<ContainerPtr> on_demand() const;  // made by by_caller()

  // The container that process `pid` (a thread's id will do) sees itself in, for the shared tree:
  // the registered container whose cgroup is an ancestor of the caller's; else the root of its
  // cgroup namespace; else the cgroup below the lowest common ancestor with the init of its pid
  // namespace; else its own. Two pid namespaces in one cgroup are two containers. Unregistered ones
  // ("caller-INODE", number 0) are made on demand and cached, at most 1024. Never forks. ESRCH when
  // there is no such process. Its resources() may fail with ENODEV when the cgroup was removed
  // since; then by_caller() gives the right one.
  Result<ContainerPtr> by_caller(pid_t pid);

  // Drops on-demand containers whose cgroup is gone or that nobody asked about for a minute. What
  // these were shown is kept for the next time, also over a restart; of 1024 of them.
  void sweep(std::uint64_t now_ns = boottime_ns());

 private:
  class Turn;

  Result<ContainerPtr> add_once(Record record);
  Result<std::uint64_t> take_number();
  std::string path_of(const Container& container, const char* suffix) const;
  enum class Loaded { kYes, kNo, kLate };
  Loaded load_late(const std::string& id, Apart::Clock::duration patience);
  std::optional<Record> late_record(const std::string& id);
  Result<ContainerPtr> open_recorded(const Record& record, Apart& apart,
                                     Apart::Clock::duration patience);
  void remove_files(const std::string& id);
  void insert(const ContainerPtr& container);
  bool erase(const ContainerPtr& container);
  ContainerPtr registered_for(const cgroup::Paths& paths) const;
  Result<std::shared_ptr<Apart>> opening(const std::string& cgroup_text);
  Result<Container::Opened> open_cgroup(const cgroup::Paths& paths, Apart& apart,
                                        Apart::Clock::duration patience);
  Result<ContainerPtr> open_on_demand(pid_t pid, const std::string& cgroup_text,
                                      const Namespaces& namespaces, const cgroup::Paths& paths);
  Result<ContainerPtr> make_on_demand(Described caller, Apart& apart);
  void make_room();
  // Once more, if it lacked a descriptor.
  template <class Call>
  auto with_room(Call call) {
    auto done = call();
    if (done || done.error().code != EMFILE) return done;
    make_room();
    return call();
  }
  void load_callers();
  Result<Kept> load_caller(const std::string& file);
  std::string caller_file(std::uint64_t number, const char* suffix) const;
  void remove_dropped();

  const std::string records_dir_, callers_dir_;
  const cgroup::Hierarchies hierarchies_;
  const std::shared_ptr<host::Reader> host_;
  const Namespaces own_;
  std::vector<Observer> observers_;
  std::atomic<std::uint64_t> next_caller_{1};  // names what is kept of on-demand containers

  // Guards what follows. Not held while a container is opened or observers are told: either may
  // have to wait for something that a container holds.
  std::mutex change_mutex_;
  std::uint64_t next_number_ = 1, reserved_numbers_ = 1;
  std::set<std::string> changing_;                      // ids that a Turn has
  std::map<std::string, std::shared_ptr<Apart>> late_;  // ids whose cgroup is still to be opened
  std::condition_variable turn_over_;

  mutable std::shared_mutex mutex_;  // guards everything below; no I/O under it
  std::map<std::string, ContainerPtr> by_id_;
  std::map<std::uint64_t, ContainerPtr> by_number_;
  std::unique_ptr<CallerCache> callers_;

  std::mutex openings_mutex_;                               // guards what follows
  std::map<std::string, std::shared_ptr<Apart>> openings_;  // of cgroups, by /proc/PID/cgroup
};

}  // namespace umwelt::container
