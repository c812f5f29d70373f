// SPDX-License-Identifier: Apache-2.0
// Which cgroup does a process see itself in? For callers of the shared tree that belong to no
// registered container. Reads /proc of the daemon's own pid namespace; never forks.
#pragma once

#include <sys/types.h>

#include <string_view>
#include <vector>

#include "base/result.h"
#include "cgroup/reader.h"
#include "container/record.h"

namespace umwelt::container {

// Inode numbers of a process's namespaces (namespaces(7)); reused by the kernel once one is gone.
struct Namespaces {
  ino_t pid = 0, cgroup = 0;
  friend bool operator==(const Namespaces&, const Namespaces&) = default;
};
Result<Namespaces> read_namespaces(pid_t pid);  // ESRCH

// /proc/PID/cgroup; ESRCH. The view points into a buffer of the calling thread that the next call
// overwrites.
Result<std::string_view> read_proc_cgroup(pid_t pid);

// The init of the pid namespace that `pid` is in, as the daemon sees it. ESRCH when it is gone or
// can't be told.
Result<pid_t> find_init(pid_t pid);
// The same on kernels before 6.11: the nearest ancestor that is process 1 of the namespace. Lacks
// an answer for processes that came in by setns(2).
Result<pid_t> find_init_by_parents(pid_t pid);

// The ids of a process or thread in the pid namespaces from the daemon's own to its own (proc(5),
// NSpid). ESRCH.
Result<std::vector<pid_t>> read_pids(pid_t pid);

// What the pure rules are made of. Each controller stands for itself: on v1 the paths differ.

// Whether the cgroups of `inner` are those of `outer` or below them, in every hierarchy where
// `outer` is not the root. False when `outer` is the root everywhere.
bool contains(const cgroup::Paths& outer, const cgroup::Paths& inner);

// The root of the cgroup namespace in which the cgroups `ours` have the names `theirs`. A
// controller whose cgroup lies outside the namespace keeps its own cgroup.
cgroup::Paths namespace_root(const cgroup::Paths& ours, const cgroup::Paths& theirs);

// `init`'s cgroup (an "init.scope" at its end taken off) when `caller` is in it or below; else the
// child of their lowest common ancestor that leads to the caller: the container of a pod whose
// containers share one pid namespace.
cgroup::Paths below_common_ancestor(const cgroup::Paths& caller, const cgroup::Paths& init);

// The cgroups of a container with the init process `init`, which may have moved itself further down
// (systemd, docker in docker): the root of its cgroup namespace if it is not in the reader's and
// that root not the machine's; else its own, without the "init.scope" of a systemd that has a pid
// namespace. `own` are the reader's namespaces. ESRCH.
Result<cgroup::Paths> read_cgroups_of_init(pid_t init, const Namespaces& own);

// A record, without id and number, for the container that `pid` (with these namespaces and cgroups)
// sees itself in: the root of its cgroup namespace, else by its pid namespace's init, else its own
// cgroup. Its start is that of the pid namespace's init (init_starttime, too); for a container that
// shares the daemon's pid namespace, of the oldest process in its cgroup; for the machine itself,
// boot. Name and hostname stay empty: asking would mean entering its namespaces.
struct Described {
  Record record;
  bool init_unknown = false;  // it has an init that can't be told
};
Result<Described> describe_caller(pid_t pid, const Namespaces& namespaces, const Namespaces& own,
                                  const cgroup::Paths& paths,
                                  const cgroup::Hierarchies& hierarchies);

}  // namespace umwelt::container
