// SPDX-License-Identifier: Apache-2.0
#include "launch/cgroup.h"

#include <fmt/format.h>
#include <libcgroup.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <memory>
#include <set>

#include "base/file.h"
#include "base/parse.h"
#include "cgroup/hierarchies.h"
#include "launch/settings.h"

// libcgroup's own, which cgroup_init(3) clears. Only in the library's archive.
extern "C" {
extern char cg_mount_table[] __attribute__((weak));
}

namespace umwelt::launch {
namespace {

constexpr const char* kParent = "umwelt";
constexpr const char* kLockFile = "/run/umwelt.lock";
// The hierarchies of this host, each once. On v1 every mounted controller is used, so that no
// hierarchy shows a container outside its own cgroup.
struct Layout {
  std::map<std::string, std::string> v1;  // controller -> mount point
  std::vector<std::string> v2;            // controllers
  std::string v2_mount;                   // also without controllers (hybrid); "": none

  bool has(const std::string& controller) const {
    return v1.contains(controller) || std::find(v2.begin(), v2.end(), controller) != v2.end();
  }
  // Each hierarchy's mount point once, also where several controllers share one.
  std::set<std::string> mounts() const {
    std::set<std::string> all;
    for (const auto& [controller, mount] : v1) all.insert(mount);
    if (!v2_mount.empty()) all.insert(v2_mount);
    return all;
  }
  const std::string& mount_of(const std::string& controller) const {
    const auto found = v1.find(controller);
    return found == v1.end() ? v2_mount : found->second;
  }
};

tl::unexpected<Error> fail_libcgroup(int code, std::string text) {
  if (code == ECGOTHER) return fail(cgroup_get_last_errno(), std::move(text));
  return fail(0, text + ": " + cgroup_strerror(code));
}

// One system call instead of a page fault for each of its pages.
void populate_mount_table() {
  constexpr std::size_t kBytes = 800U << 10;
  const auto begin = reinterpret_cast<std::uintptr_t>(cg_mount_table) & ~std::uintptr_t{4095};
  if (begin != 0) (void)::madvise(reinterpret_cast<void*>(begin), kBytes, MADV_POPULATE_WRITE);
}

Result<void> initialise_libcgroup() {
  static const int code = [] {
    populate_mount_table();
    cgroup_set_logger([](void*, int, const char*, va_list) {}, CGROUP_LOG_ERROR, nullptr);
    return cgroup_init();
  }();
  if (code != 0) return fail_libcgroup(code, "find the cgroup hierarchies");
  return {};
}

Result<Layout> read_layout() {
  const cgroup::Hierarchies hierarchies = UMWELT_TRY(cgroup::Hierarchies::read());
  Layout layout;
  layout.v2_mount = hierarchies.v2;
  for (const auto& [controller, mount] : hierarchies.v1)
    if (!controller.starts_with("name=")) layout.v1.emplace(controller, mount);
  if (!layout.v2_mount.empty()) {
    const std::string text = UMWELT_TRY(read_file(layout.v2_mount + "/cgroup.controllers"));
    layout.v2 = choose_v2_controllers(text, layout.v1.empty());
  }
  if (layout.mounts().empty()) return fail(0, "this host has no cgroup hierarchy mounted");
  return layout;
}

// Between processes, also those with other runtime directories: whoever makes "umwelt/ID" must not
// lose "umwelt" to somebody who removes the last container.
// It is a file that only root can open: a lock of one that others can read is theirs to hold, too.
Result<UniqueFd> lock_hierarchies() {
  UniqueFd fd = UMWELT_TRY(open_at(AT_FDCWD, kLockFile, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  while (::flock(fd.get(), LOCK_EX) != 0)
    if (errno != EINTR) return fail_errno("lock the cgroup hierarchy");
  return fd;
}

struct FreeGroup {
  void operator()(struct cgroup* group) const { cgroup_free(&group); }
};
using Group = std::unique_ptr<struct cgroup, FreeGroup>;

Result<Group> new_group(const std::string& name) {
  UMWELT_CHECK(initialise_libcgroup());
  Group group(cgroup_new_cgroup(name.c_str()));
  if (!group) return fail(ENOMEM, "cgroup " + name);
  return group;
}

Result<void> write_setting(const std::string& name, const Setting& setting) {
  const Group group = UMWELT_TRY(new_group(name));
  cgroup_controller* controller = cgroup_add_controller(group.get(), setting.controller.c_str());
  if (controller == nullptr ||
      cgroup_add_value_string(controller, setting.file.c_str(), setting.value.c_str()) != 0)
    return fail(ENOMEM, setting.file);
  const int code = cgroup_modify_cgroup(group.get());
  if (code == 0) return {};
  if (code == ECGOTHER && cgroup_get_last_errno() == EBUSY && setting.controller == "memory")
    return fail(0, fmt::format("{} {}: the container uses more than that now", setting.option,
                               setting.value));
  return fail_libcgroup(
      code, fmt::format("{}: write {} to {}", setting.option, setting.value, setting.file));
}

std::optional<std::uint64_t> read_limit(const std::string& directory, const char* file) {
  auto text = read_file(directory + "/" + file);
  const auto value = text ? parse_u64(trim(*text)) : std::nullopt;
  // v1 says "no limit" with the largest multiple of the page size.
  if (!value || *value > (std::uint64_t{1} << 62)) return std::nullopt;
  return value;
}

MemoryLimits read_memory_limits(const Layout& layout, const std::string& name) {
  MemoryLimits current;
  if (!layout.has("memory")) return current;
  const std::string directory = layout.mount_of("memory") + "/" + name;
  if (layout.v1.contains("memory")) {
    current.memory_bytes = read_limit(directory, "memory.limit_in_bytes");
    current.memory_swap_bytes = read_limit(directory, "memory.memsw.limit_in_bytes");
    current.swap_accounting = std::filesystem::exists(directory + "/memory.memsw.limit_in_bytes");
  } else {
    current.memory_bytes = read_limit(directory, "memory.max");
    current.swap_accounting = std::filesystem::exists(directory + "/memory.swap.max");
  }
  return current;
}

// v1 has the period in a file of its own. With the quota as it was it may be more than the cgroup
// above has, or less than one below, which the kernel refuses: then it follows the new quota.
Result<void> write_settings(const std::string& name, const std::vector<Setting>& settings) {
  const Setting* period = nullptr;
  for (const Setting& setting : settings) {
    const auto written = write_setting(name, setting);
    if (!written && written.error().code == EINVAL && setting.file == "cpu.cfs_period_us")
      period = &setting;
    else if (!written)
      return written;
  }
  return period ? write_setting(name, *period) : Result<void>();
}

Result<void> write_limits(const Layout& layout, const std::string& name,
                          const ResourceLimits& limits) {
  const MemoryLimits current = read_memory_limits(layout, name);
  if ((limits.memory_swap_bytes || limits.memory_swap_unlimited) && layout.has("memory") &&
      !current.swap_accounting)
    return fail(0,
                "--memory-swap: this kernel does not count swap (boot it with swapaccount=1), "
                "leave the option out");
  const auto settings = settings_of(limits, current, layout.v1);
  for (const Setting& setting : settings)
    if (!layout.has(setting.controller))
      return fail(0, fmt::format("{}: this host has no {} cgroup controller", setting.option,
                                 setting.controller));
  return write_settings(name, settings);
}

// A v1 cpuset is born empty and takes no process until it has CPUs and memory nodes.
Result<void> fill_cpuset(const Layout& layout, const std::string& parent,
                         const std::string& child) {
  const auto found = layout.v1.find("cpuset");
  if (found == layout.v1.end()) return {};
  for (const char* file : {"cpuset.cpus", "cpuset.mems"}) {
    const std::string value =
        UMWELT_TRY(read_file(fmt::format("{}/{}/{}", found->second, parent, file)));
    UMWELT_CHECK(write_setting(child, {"cpuset", file, std::string(trim(value)), "cpuset"}));
  }
  return {};
}

// In the v1 hierarchies, below kParent, which is made on the way.
Result<void> make_v1_groups(const Layout& layout, const std::string& name) {
  if (layout.v1.empty()) return {};
  const Group group = UMWELT_TRY(new_group(name));
  for (const auto& [controller, mount] : layout.v1)
    if (cgroup_add_controller(group.get(), controller.c_str()) == nullptr)
      return fail(EINVAL, "cgroup controller " + controller);
  if (const int code = cgroup_create_cgroup(group.get(), 1); code != 0)
    return fail_libcgroup(code, "make cgroup " + name);
  return {};
}

// By hand: libcgroup knows no hierarchy without controllers, and reads all of them at its start,
// for which there is time when the child has been made.
Result<void> make_v2_group(const Layout& layout, const std::string& name) {
  const auto make = [&](const std::string& path) -> Result<void> {
    if (::mkdir((layout.v2_mount + "/" + path).c_str(), 0755) != 0 && errno != EEXIST)
      return fail_errno("make cgroup " + path);
    return {};
  };
  UMWELT_CHECK(make(kParent));
  // Systemd enables in the root what its units use, hugetlb never. This is before the process is
  // there, which the kernel would move otherwise.
  (void)enable_controllers(layout.v2_mount, layout.v2);
  (void)enable_controllers(layout.v2_mount + "/" + kParent, layout.v2);
  return make(name);
}

// The cgroups at and below `name` in one hierarchy, children before parents.
std::vector<std::string> subtree(const std::string& mount, const std::string& name) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(mount + "/" + name, error), end; !error && it != end;
       it.increment(error)) {
    if (!it->is_directory(error)) continue;
    auto below = subtree(mount, name + "/" + it->path().filename().string());
    names.insert(names.end(), below.begin(), below.end());
  }
  names.push_back(name);
  return names;
}

std::set<pid_t> processes_of(const Layout& layout, const std::string& name) {
  std::set<pid_t> pids;
  for (const std::string& mount : layout.mounts()) {
    for (const std::string& group : subtree(mount, name)) {
      auto text = read_file(fmt::format("{}/{}/cgroup.procs", mount, group));
      if (!text) continue;
      std::string_view rest = *text;
      while (auto line = next_line(rest))
        if (auto pid = parse_u64(*line); pid && *pid != 0) pids.insert(static_cast<pid_t>(*pid));
    }
  }
  return pids;
}

Result<void> remove_group(const std::string& mount, const std::string& name) {
  if (::rmdir((mount + "/" + name).c_str()) != 0 && errno != ENOENT)
    return fail_errno("remove cgroup " + name);
  return {};
}

// Where nothing is in it and below it; whether that was so everywhere.
bool remove_empty(const Layout& layout, const std::string& name) {
  bool all = true;
  for (const std::string& mount : layout.mounts()) all &= remove_group(mount, name).has_value();
  return all;
}

// Upon a failure.
void remove_group_and_parent(const Layout& layout, const std::string& name) {
  for (const std::string& left : {name, std::string(kParent)}) (void)remove_empty(layout, left);
}

bool exists(const Layout& layout, const std::string& name) {
  const auto mounts = layout.mounts();
  return std::any_of(mounts.begin(), mounts.end(), [&](const std::string& mount) {
    return std::filesystem::exists(mount + "/" + name);
  });
}

// A v1 kernel counts the I/O on a disk from the first limit on that some cgroup had on it, even for
// a moment (see cgroup/io.h). Partitions, and devices that can't be limited, are refused.
void count_io(const Layout& layout, const std::string& name) {
  const auto blkio = layout.v1.find("blkio");
  if (blkio == layout.v1.end()) return;
  auto text = read_file("/proc/partitions");
  if (!text) return;
  const std::string file = fmt::format("{}/{}/blkio.throttle.read_bps_device", blkio->second, name);
  std::string_view rest = *text;
  while (auto line = next_line(rest)) {
    const auto major = parse_u64(next_word(*line)), minor = parse_u64(next_word(*line));
    if (!major || !minor) continue;  // the heading
    for (const std::uint64_t limit : {std::uint64_t{1} << 62, std::uint64_t{0}})
      (void)write_file_at(AT_FDCWD, file, fmt::format("{}:{} {}", *major, *minor, limit));
  }
}

bool is_member(std::string_view proc_cgroup, const std::string& name) {
  const auto paths = cgroup::parse_proc_cgroup(proc_cgroup);
  return paths && std::any_of(paths->begin(), paths->end(), [&](const auto& entry) {
           return (entry.second + "/").starts_with("/" + name + "/");
         });
}

// Through a descriptor, so that a pid that was given to another process meanwhile is spared.
void kill_member(pid_t pid, const std::string& name) {
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const auto text = read_file(fmt::format("/proc/{}/cgroup", pid));
  if (process && text && is_member(*text, name))
    ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0);
}

void sleep_ms(long ms) {
  const timespec pause{0, ms * 1000000};
  ::nanosleep(&pause, nullptr);
}

void thaw(const Layout& layout, const std::string& name) {
  if (const auto freezer = layout.v1.find("freezer"); freezer != layout.v1.end())
    (void)write_file_at(AT_FDCWD, freezer->second + "/" + name + "/freezer.state", "THAWED");
  else
    (void)write_file_at(AT_FDCWD, layout.v2_mount + "/" + name + "/cgroup.freeze", "0");
}

Result<void> kill_and_remove(const Layout& layout, const std::string& name) {
  thaw(layout, name);
  if (!layout.v2_mount.empty())  // atomic, where the kernel has it (5.14)
    (void)write_file_at(AT_FDCWD, layout.v2_mount + "/" + name + "/cgroup.kill", "1");
  for (int attempt = 0;; ++attempt) {
    const std::set<pid_t> pids = processes_of(layout, name);
    if (pids.empty()) break;
    if (attempt == 1000) return fail(EBUSY, "a process of cgroup " + name + " does not die");
    for (const pid_t pid : pids) kill_member(pid, name);
    sleep_ms(attempt < 20 ? 1 : 5);
  }
  for (const std::string& mount : layout.mounts()) {
    for (const std::string& group : subtree(mount, name)) {
      // A process that has just died may hold its cgroup for a moment longer.
      for (int attempt = 0;; ++attempt) {
        auto removed = remove_group(mount, group);
        if (removed) break;
        if (removed.error().code != EBUSY || attempt == 1000) return removed;
        sleep_ms(attempt < 20 ? 1 : 5);
      }
    }
  }
  return {};
}

}  // namespace

std::string cgroup_name(const std::string& id) { return std::string(kParent) + "/" + id; }

Result<cgroup::Paths> cgroup_paths(const std::string& id) {
  const Layout layout = UMWELT_TRY(read_layout());
  cgroup::Paths paths;
  for (const auto& [controller, mount] : layout.v1) paths[controller] = "/" + cgroup_name(id);
  if (!layout.v2_mount.empty()) paths[""] = "/" + cgroup_name(id);
  return paths;
}

Result<CgroupDirectories> cgroup_directories(const std::string& id) {
  const Layout layout = UMWELT_TRY(read_layout());
  CgroupDirectories directories;
  for (const std::string& mount : layout.mounts())
    if (mount != layout.v2_mount) directories.v1.push_back(mount + "/" + cgroup_name(id));
  if (!layout.v2_mount.empty()) directories.v2 = layout.v2_mount + "/" + cgroup_name(id);
  return directories;
}

Result<UniqueFd> create_v2_cgroup(const std::string& id) {
  const Layout layout = UMWELT_TRY(read_layout());
  const std::string name = cgroup_name(id);
  const UniqueFd lock = UMWELT_TRY(lock_hierarchies());
  if (exists(layout, name)) return fail(EEXIST, "make cgroup " + name);
  if (layout.v2_mount.empty()) return UniqueFd();
  if (const auto made = make_v2_group(layout, name); !made) {
    remove_group_and_parent(layout, name);
    return fail(made.error());
  }
  return open_at(AT_FDCWD, layout.v2_mount + "/" + name, O_PATH | O_DIRECTORY);
}

Result<void> create_v1_cgroups(const std::string& id, const ResourceLimits& limits) {
  Layout layout = UMWELT_TRY(read_layout());
  const std::string name = cgroup_name(id);
  {
    const UniqueFd lock = UMWELT_TRY(lock_hierarchies());
    if (const auto made = make_v1_groups(layout, name); !made) {
      remove_group_and_parent(layout, name);
      return fail(made.error());
    }
  }
  layout.v2 = enable_controllers(layout.v2_mount + "/" + kParent, layout.v2);
  auto limited = fill_cpuset(layout, "", kParent);
  if (limited) limited = fill_cpuset(layout, kParent, name);
  if (limited) limited = write_limits(layout, name, limits);
  if (!limited) {
    (void)destroy_cgroup(id);
    return fail(limited.error());
  }
  count_io(layout, name);
  return {};
}

Result<void> apply_limits(const std::string& id, const ResourceLimits& limits) {
  const Layout layout = UMWELT_TRY(read_layout());
  if (!exists(layout, cgroup_name(id))) return fail(ENOENT, "cgroup " + cgroup_name(id));
  return write_limits(layout, cgroup_name(id), limits);
}

void thaw(const std::string& id) {
  if (const auto layout = read_layout()) thaw(*layout, cgroup_name(id));
}

Result<void> destroy_cgroup(const std::string& id) {
  const Layout layout = UMWELT_TRY(read_layout());
  const std::string name = cgroup_name(id);
  if (!remove_empty(layout, name)) UMWELT_CHECK(kill_and_remove(layout, name));
  const UniqueFd lock = UMWELT_TRY(lock_hierarchies());
  (void)remove_empty(layout, kParent);
  return {};
}

Result<std::vector<pid_t>> processes(const std::string& id) {
  const Layout layout = UMWELT_TRY(read_layout());
  const std::set<pid_t> pids = processes_of(layout, cgroup_name(id));
  return std::vector<pid_t>(pids.begin(), pids.end());
}

Result<bool> oom_killed(const std::string& id) {
  const Layout layout = UMWELT_TRY(read_layout());
  if (!layout.has("memory")) return false;
  struct Events {
    std::uint64_t oom_kill = 0;
  } events;
  constexpr KeyedField<Events> kTable[] = {{"oom_kill", &Events::oom_kill}};
  const char* file = layout.v1.contains("memory") ? "memory.oom_control" : "memory.events";
  const std::string text = UMWELT_TRY(
      read_file(fmt::format("{}/{}/{}", layout.mount_of("memory"), cgroup_name(id), file)));
  parse_keyed<Events>(text, kTable, events);
  return events.oom_kill > 0;
}

}  // namespace umwelt::launch
