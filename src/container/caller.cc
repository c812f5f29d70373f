// SPDX-License-Identifier: Apache-2.0
#include "container/caller.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>
#include <system_error>
#include <thread>

#include "base/file.h"
#include "base/parse.h"

#ifndef NS_GET_PID_FROM_PIDNS
#define NS_GET_PID_FROM_PIDNS _IOR(NSIO, 0x6, int)  // Linux 6.11
#endif

namespace umwelt::container {
namespace {

constexpr unsigned kMaxPidNamespaces = 32;  // MAX_PID_NS_LEVEL
constexpr unsigned kMaxParents = 4096;
constexpr unsigned kMaxOldestCandidates = 64;
constexpr std::size_t kHeldProcesses = 16;  // by a thread
constexpr std::string_view kInitScope = "/init.scope";

std::string proc_path(pid_t pid, const char* name) {
  return "/proc/" + std::to_string(pid) + "/" + name;
}

Error process_gone(pid_t pid, const Error& error) {
  if (error.code != ENOENT && error.code != ESRCH) return error;
  return {ESRCH, "process " + std::to_string(pid)};
}

bool is_at_or_below(std::string_view path, std::string_view ancestor) {
  if (ancestor == "/") return true;
  return path.substr(0, ancestor.size()) == ancestor &&
         (path.size() == ancestor.size() || path[ancestor.size()] == '/');
}

const std::string& path_of(const cgroup::Paths& paths, const std::string& controller) {
  static const std::string kRoot = "/";
  const auto found = paths.find(controller);
  return found == paths.end() ? kRoot : found->second;
}

// What /proc/PID/cgroup says to a reader in the same cgroup namespace.
//
// The namespace's root can't be read anywhere. mountinfo shows it only where a process of the
// namespace mounted the hierarchy (root field "/docker/ID" for us; mounts that were inherited say
// "/" to us and "/../.." inside), and a container may bind any cgroup below its own anywhere. But
// the kernel makes the paths of /proc/PID/cgroup relative to the *reader's* namespace, which each
// thread may choose for itself: "/docker/ID/sub" here and "/sub" there tell the root. The thread
// ends with the namespace it entered.
Result<cgroup::Paths> read_paths_as_seen_inside(pid_t pid) {
  Result<cgroup::Paths> paths;
  const auto read = [&]() -> Result<cgroup::Paths> {
    const auto ns = open_at(AT_FDCWD, proc_path(pid, "ns/cgroup"), O_RDONLY);
    if (!ns) return fail(process_gone(pid, ns.error()));
    if (::setns(ns->get(), CLONE_NEWCGROUP) != 0) return fail_errno("setns cgroup");
    return cgroup::parse_proc_cgroup(UMWELT_TRY(read_proc_cgroup(pid)));
  };
  try {
    std::thread([&] { paths = read(); }).join();
  } catch (const std::system_error& error) {
    return fail(error.code().value(), "start a thread");
  }
  return paths;
}

struct ProcessStatus {  // of /proc/PID/status (proc(5))
  pid_t parent = 0;
  std::vector<pid_t> pids;  // in each pid namespace from ours to its own
};

Result<ProcessStatus> read_process_status(pid_t pid) {
  const auto text = read_file(proc_path(pid, "status"));
  if (!text) return fail(process_gone(pid, text.error()));
  ProcessStatus status;
  std::string_view rest = *text;
  while (auto line = next_line(rest)) {
    const std::string_view key = next_word(*line);
    if (key == "PPid:") {
      status.parent = static_cast<pid_t>(parse_u64(next_word(*line)).value_or(0));
    } else if (key == "NSpid:") {
      for (auto word = next_word(*line); !word.empty(); word = next_word(*line)) {
        status.pids.push_back(static_cast<pid_t>(parse_u64(word).value_or(0)));
      }
    }
  }
  if (status.pids.empty() || status.pids.size() > kMaxPidNamespaces + 1)
    return fail(EINVAL, "parse " + proc_path(pid, "status"));
  return status;
}

// The start of the oldest process in the container's own cgroup, in clock ticks.
std::optional<std::uint64_t> oldest_starttime(const cgroup::Paths& paths,
                                              const cgroup::Hierarchies& hierarchies) {
  for (const auto& [controller, path] : paths) {
    if (path == "/") continue;
    const auto mount = hierarchies.v1.find(controller);
    const std::string& mount_point =
        controller.empty() || mount == hierarchies.v1.end() ? hierarchies.v2 : mount->second;
    const auto text = read_file(mount_point + path + "/cgroup.procs");
    if (!text) continue;
    std::string_view rest = *text;
    std::optional<std::uint64_t> oldest;
    for (unsigned i = 0; i < kMaxOldestCandidates; ++i) {
      const auto line = next_line(rest);
      if (!line) break;
      const auto starttime = read_starttime(static_cast<pid_t>(parse_u64(*line).value_or(0)));
      if (starttime) oldest = std::min(*starttime, oldest.value_or(*starttime));
    }
    if (oldest) return oldest;
  }
  return std::nullopt;
}

}  // namespace

Result<Namespaces> read_namespaces(pid_t pid) {
  Namespaces out;
  struct stat status {};
  if (::stat(proc_path(pid, "ns/pid").c_str(), &status) != 0)
    return fail(process_gone(pid, {errno, "stat " + proc_path(pid, "ns/pid")}));
  out.pid = status.st_ino;
  if (::stat(proc_path(pid, "ns/cgroup").c_str(), &status) != 0)
    return fail(process_gone(pid, {errno, "stat " + proc_path(pid, "ns/cgroup")}));
  out.cgroup = status.st_ino;
  return out;
}

Result<std::string_view> read_proc_cgroup(pid_t pid) {
  // Who reads once reads again, and opening a file of /proc/PID is most of the work. An open one
  // stays that process's: when it has ended, it reads ESRCH, whoever has the number then.
  struct Held {
    pid_t pid = 0;
    UniqueFd fd;
  };
  thread_local std::array<Held, kHeldProcesses> held;
  thread_local std::string buffer;
  Held& file = held[static_cast<unsigned>(pid) % held.size()];
  if (file.pid == pid && file.fd)
    if (const auto text = pread_record(file.fd.get(), buffer)) return *text;
  file.fd.reset();
  auto fd = open_at(AT_FDCWD, proc_path(pid, "cgroup"), O_RDONLY);
  if (!fd) return fail(process_gone(pid, fd.error()));
  file = {pid, *std::move(fd)};
  const auto text = pread_record(file.fd.get(), buffer);
  if (!text) return fail(process_gone(pid, text.error()));
  return *text;
}

Result<std::vector<pid_t>> read_pids(pid_t pid) {
  return UMWELT_TRY(read_process_status(pid)).pids;
}

Result<pid_t> find_init(pid_t pid) {
  const auto ns = open_at(AT_FDCWD, proc_path(pid, "ns/pid"), O_RDONLY);
  if (!ns) return fail(process_gone(pid, ns.error()));
  const int init = ::ioctl(ns->get(), NS_GET_PID_FROM_PIDNS, 1);
  if (init > 0) return init;
  if (errno == ENOTTY || errno == EINVAL) return find_init_by_parents(pid);
  return fail(ESRCH, "init of the pid namespace of process " + std::to_string(pid));
}

Result<pid_t> find_init_by_parents(pid_t pid) {
  const std::size_t levels = UMWELT_TRY(read_process_status(pid)).pids.size();
  pid_t current = pid;
  for (unsigned i = 0; i < kMaxParents && current > 0; ++i) {
    const ProcessStatus status = UMWELT_TRY(read_process_status(current));
    if (status.pids.size() < levels) break;  // left the namespace: it was entered by setns
    if (status.pids.size() == levels && status.pids.back() == 1) return current;
    current = status.parent;
  }
  return fail(ESRCH, "init of the pid namespace of process " + std::to_string(pid));
}

bool contains(const cgroup::Paths& outer, const cgroup::Paths& inner) {
  bool below_a_root = false;
  for (const auto& [controller, path] : outer) {
    if (path == "/") continue;
    if (!is_at_or_below(path_of(inner, controller), path)) return false;
    below_a_root = true;
  }
  return below_a_root;
}

cgroup::Paths namespace_root(const cgroup::Paths& ours, const cgroup::Paths& theirs) {
  cgroup::Paths root;
  for (const auto& [controller, path] : ours) {
    const std::string& inside = path_of(theirs, controller);
    std::string& out = root[controller] = path;
    if (inside == "/" || inside.size() > path.size() || !path.ends_with(inside)) continue;
    out.resize(path.size() - inside.size());
    if (out.empty()) out = "/";
  }
  return root;
}

cgroup::Paths below_common_ancestor(const cgroup::Paths& caller, const cgroup::Paths& init) {
  cgroup::Paths out;
  for (const auto& [controller, path] : caller) {
    std::string_view top = path_of(init, controller);
    if (top.ends_with(kInitScope)) top.remove_suffix(kInitScope.size());
    if (top.empty()) top = "/";
    if (top != "/" && is_at_or_below(path, top)) {
      out[controller] = top;
      continue;
    }
    // The end of the first part of `path` that `top` does not share.
    std::size_t end = 0;
    while (end < path.size()) {
      end = std::min(path.find('/', end + 1), path.size());
      if (!is_at_or_below(top, std::string_view(path).substr(0, end))) break;
    }
    out[controller] = path.substr(0, end);
  }
  return out;
}

Result<cgroup::Paths> read_cgroups_of_init(pid_t init, const Namespaces& own) {
  const std::string text(UMWELT_TRY(read_proc_cgroup(init)));
  const cgroup::Paths paths = UMWELT_TRY(cgroup::parse_proc_cgroup(text));
  const Namespaces namespaces = UMWELT_TRY(read_namespaces(init));
  cgroup::Paths out = namespaces.pid == own.pid ? paths : below_common_ancestor(paths, paths);
  if (namespaces.cgroup == own.cgroup) return out;
  const cgroup::Paths inside = UMWELT_TRY(read_paths_as_seen_inside(init));
  // A namespace may be older than the cgroup: then its root says nothing of the container.
  for (const auto& [controller, root] : namespace_root(paths, inside))
    if (root != "/") out[controller] = root;
  return out;
}

Result<Described> describe_caller(pid_t pid, const Namespaces& namespaces, const Namespaces& own,
                                  const cgroup::Paths& paths,
                                  const cgroup::Hierarchies& hierarchies) {
  const auto at_a_root = [](const cgroup::Paths& candidate) {
    return std::all_of(candidate.begin(), candidate.end(),
                       [](const auto& entry) { return entry.second == "/"; });
  };
  Described described;
  Record& record = described.record;
  record.cgroup_paths = paths;
  const bool cgroup_namespace = namespaces.cgroup != own.cgroup;
  const auto init = find_init(pid);
  bool found = false;
  if (cgroup_namespace) {
    const cgroup::Paths inside = UMWELT_TRY(read_paths_as_seen_inside(pid));
    cgroup::Paths root = namespace_root(paths, inside);
    // A namespace made at the root of every hierarchy sets nobody apart.
    found = !at_a_root(root);
    if (found) record.cgroup_paths = std::move(root);
  }
  if (!found && init && namespaces.pid != own.pid) {
    const std::string text(UMWELT_TRY(read_proc_cgroup(*init)));
    record.cgroup_paths = below_common_ancestor(paths, UMWELT_TRY(cgroup::parse_proc_cgroup(text)));
  }

  std::optional<std::uint64_t> ticks;
  const bool shares_pids = namespaces.pid == own.pid;
  if (at_a_root(record.cgroup_paths))
    ticks = 0;
  else if (shares_pids)
    ticks = oldest_starttime(record.cgroup_paths, hierarchies);
  else if (init)
    ticks = record.init_starttime = UMWELT_TRY(read_starttime(*init));
  else
    described.init_unknown = true;
  if (!ticks) ticks = UMWELT_TRY(read_starttime(pid));
  record.start_boottime_ns = starttime_to_boottime_ns(*ticks);
  record.start_realtime_s = boottime_to_realtime_s(record.start_boottime_ns);

  struct stat theirs {
  }, ours{};
  record.time_namespace = ::stat(proc_path(pid, "ns/time").c_str(), &theirs) == 0 &&
                          ::stat("/proc/self/ns/time", &ours) == 0 && theirs.st_ino != ours.st_ino;
  return described;
}

}  // namespace umwelt::container
