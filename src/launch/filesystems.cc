// SPDX-License-Identifier: Apache-2.0
#include "launch/filesystems.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <utility>

#include "base/file.h"
#include "base/parse.h"
#include "launch/mounts.h"

namespace umwelt::launch {
namespace {

constexpr std::uint64_t kNoSpecials = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

constexpr std::uint64_t kDeviceAttributes =
    MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;

// A mount point of our own filesystems: never through a symlink.
Result<UniqueFd> plain_directory(int root, const std::string& path) {
  auto directory = open_plain(root, path, O_PATH | O_DIRECTORY);
  if (!directory && directory.error().code == ENOENT)
    return open_target(root, path, TargetKind::kDirectory);
  if (!directory && directory.error().code == ELOOP)
    return fail(0, "root filesystem: /" + path + " is a symbolic link; it must be a directory");
  return directory;
}

Result<void> mount_on(int root, const std::string& path, int mount) {
  const UniqueFd target = UMWELT_TRY(plain_directory(root, path));
  if (auto attached = attach_mount(mount, target.get()); !attached)
    return fail(attached.error().code, "mount /" + path);
  return {};
}

// The node of the host in a read-only mount: it can be written to as a device, but a container's
// chmod or chown does not reach the host.
Result<void> add_device(int dev, const char* name) {
  const UniqueFd node = UMWELT_TRY(clone_mount(AT_FDCWD, std::string("/dev/") + name, false));
  UMWELT_CHECK(restrict_mount(node.get(), kDeviceAttributes, false));
  if (::mknodat(dev, name, S_IFREG | 0600, 0) != 0)
    return fail_errno("make /dev/" + std::string(name));
  const UniqueFd target = UMWELT_TRY(open_at(dev, name, O_PATH | O_NOFOLLOW));
  return attach_mount(node.get(), target.get());
}

Result<void> add_filesystem(int dev, const char* name, Result<UniqueFd> mount) {
  if (!mount) return fail(mount.error());
  if (::mkdirat(dev, name, 0755) != 0) return fail_errno("make /dev/" + std::string(name));
  const UniqueFd target = UMWELT_TRY(open_at(dev, name, O_PATH | O_DIRECTORY | O_NOFOLLOW));
  return attach_mount(mount->get(), target.get());
}

Result<void> mount_dev(int root) {
  const UniqueFd dev =
      UMWELT_TRY(make_filesystem("tmpfs", {{"mode", "0755"}, {"size", "65536k"}}, kNoSpecials));
  UMWELT_CHECK(mount_on(root, "dev", dev.get()));
  for (const char* name : {"null", "zero", "full", "random", "urandom", "tty"})
    UMWELT_CHECK(add_device(dev.get(), name));
  constexpr std::pair<const char*, const char*> kLinks[] = {{"/proc/self/fd", "fd"},
                                                            {"/proc/self/fd/0", "stdin"},
                                                            {"/proc/self/fd/1", "stdout"},
                                                            {"/proc/self/fd/2", "stderr"},
                                                            {"pts/ptmx", "ptmx"}};
  for (const auto& [target, name] : kLinks)
    if (::symlinkat(target, dev.get(), name) != 0) return fail_errno("link in /dev");
  UMWELT_CHECK(add_filesystem(
      dev.get(), "pts",
      make_filesystem("devpts", {{"ptmxmode", "0666"}, {"mode", "0620"}, {"gid", "5"}},
                      MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)));
  UMWELT_CHECK(add_filesystem(
      dev.get(), "shm",
      make_filesystem("tmpfs", {{"mode", "1777"}, {"size", "65536k"}}, kNoSpecials)));
  return add_filesystem(dev.get(), "mqueue", make_filesystem("mqueue", {}, kNoSpecials));
}

// The directories that an image has in its /run, one level, for programs that expect theirs there.
Result<void> copy_directories(int from, int to) {
  constexpr int kMost = 256;
  for (const std::string& name : UMWELT_TRY(read_names_at(from, ".", kMost))) {
    struct stat st {};
    if (::fstatat(from, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISDIR(st.st_mode))
      continue;
    if (::mkdirat(to, name.c_str(), 0) != 0 ||
        ::fchownat(to, name.c_str(), st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) != 0 ||
        ::fchmodat(to, name.c_str(), st.st_mode & 07777, 0) != 0)
      return fail_errno("make /run/" + name);
  }
  return {};
}

Result<void> mount_run(int root, const std::string& size) {
  const UniqueFd run = UMWELT_TRY(make_filesystem("tmpfs", {{"mode", "0755"}, {"size", size}},
                                                  MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV));
  const UniqueFd target = UMWELT_TRY(plain_directory(root, "run"));
  UMWELT_CHECK(copy_directories(target.get(), run.get()));
  return mount_on(root, "run", run.get());
}

Result<UniqueFd> make_cgroup_filesystem(const CgroupMount& cgroup) {
  const unsigned attributes = MOUNT_ATTR_RDONLY | kNoSpecials;
  if (cgroup.controllers.empty()) return make_filesystem("cgroup2", {}, attributes);
  const UniqueFd context(::fsopen("cgroup", FSOPEN_CLOEXEC));
  if (!context) return fail_errno("open a cgroup filesystem");
  ::fsconfig(context.get(), FSCONFIG_SET_STRING, "source", "cgroup", 0);
  for (std::string_view rest = cgroup.controllers; !rest.empty();) {
    const std::string flag(next_part(rest, ','));
    if (::fsconfig(context.get(), FSCONFIG_SET_FLAG, flag.c_str(), nullptr, 0) != 0)
      return fail_errno("choose cgroup controller " + flag);
  }
  if (::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return fail_errno("mount cgroup controllers " + cgroup.controllers);
  UniqueFd mount(::fsmount(context.get(), FSMOUNT_CLOEXEC, attributes));
  if (!mount) return fail_errno("mount cgroup controllers " + cgroup.controllers);
  return mount;
}

Result<void> cover_file(int root, const std::string& path) {
  const UniqueFd target = UMWELT_TRY(open_plain(root, path, O_PATH));
  const UniqueFd null = UMWELT_TRY(clone_mount(AT_FDCWD, "/dev/null", false));
  UMWELT_CHECK(restrict_mount(null.get(), kDeviceAttributes, false));
  return attach_mount(null.get(), target.get());
}

Result<UniqueFd> make_empty() {
  return make_filesystem("tmpfs", {{"mode", "0755"}, {"size", "4k"}},
                         MOUNT_ATTR_RDONLY | kNoSpecials);
}

// The kernel may lack a path, or have it as another kind.
bool absent(const Error& error) { return error.code == ENOENT || error.code == ENOTDIR; }

Result<void> cover_file_if_there(int root, const std::string& path) {
  if (auto covered = cover_file(root, path); !covered && !absent(covered.error()))
    return fail(covered.error());
  return {};
}

// By when a CPU is too hot, and its interrupts for that, a container can watch what others do
// (GHSA-6fw5-f8r9-fgfm). The views show none of it.
Result<void> hide_heat(int root) {
  UMWELT_CHECK(cover_file_if_there(root, "proc/interrupts"));
  const std::string cpus = "sys/devices/system/cpu";
  const auto names = read_names_at(root, cpus);
  if (!names) return absent(names.error()) ? Result<void>() : fail(names.error());
  // One filesystem for all of them: to make one for each of many CPUs takes long.
  UniqueFd empty;
  for (const std::string& name : *names) {
    if (!name.starts_with("cpu")) continue;
    auto target = open_plain(root, cpus + "/" + name + "/thermal_throttle", O_PATH | O_DIRECTORY);
    if (!target && absent(target.error())) continue;
    if (!target) return fail(target.error());
    // What is attached nowhere can't be copied.
    UniqueFd next = UMWELT_TRY(empty ? clone_mount(empty.get(), "", false) : make_empty());
    UMWELT_CHECK(attach_mount(next.get(), target->get()));
    if (!empty) empty = std::move(next);
  }
  return {};
}

}  // namespace

std::vector<CgroupMount> parse_cgroup_mounts(std::string_view proc_self_cgroup,
                                             const std::string& path) {
  std::vector<CgroupMount> mounts;
  bool v2 = false;
  while (auto line = next_line(proc_self_cgroup)) {
    const std::size_t first = line->find(':');
    const std::size_t second = line->find(':', first + 1);
    if (first == std::string_view::npos || second == std::string_view::npos) continue;
    const std::string controllers(line->substr(first + 1, second - first - 1));
    if (line->substr(second + 1) != path || controllers.starts_with("name=")) continue;
    if (controllers.empty())
      v2 = true;
    else
      mounts.push_back({controllers});
  }
  if (mounts.empty() && v2) mounts.push_back({""});
  return mounts;
}

std::string tmpfs_size(std::optional<std::uint64_t> memory_bytes) {
  struct sysinfo machine {};
  if (!memory_bytes || ::sysinfo(&machine) != 0 ||
      *memory_bytes >= std::uint64_t{machine.totalram} * machine.mem_unit)
    return "50%";
  return std::to_string(*memory_bytes);
}

Result<void> mount_filesystems(int root, std::optional<std::uint64_t> memory_bytes) {
  const UniqueFd proc = UMWELT_TRY(make_filesystem("proc", {}, kNoSpecials));
  UMWELT_CHECK(mount_on(root, "proc", proc.get()));
  const UniqueFd sys = UMWELT_TRY(make_filesystem("sysfs", {}, MOUNT_ATTR_RDONLY | kNoSpecials));
  UMWELT_CHECK(mount_on(root, "sys", sys.get()));
  UMWELT_CHECK(mount_dev(root));
  return mount_run(root, tmpfs_size(memory_bytes));
}

Result<void> mount_cgroups(int root, const std::vector<CgroupMount>& cgroups) {
  if (cgroups.size() == 1 && cgroups[0].controllers.empty()) {
    const UniqueFd mount = UMWELT_TRY(make_cgroup_filesystem(cgroups[0]));
    return mount_on(root, "sys/fs/cgroup", mount.get());
  }
  const UniqueFd directory =
      UMWELT_TRY(make_filesystem("tmpfs", {{"mode", "0755"}, {"size", "64k"}}, kNoSpecials));
  for (const CgroupMount& cgroup : cgroups) {
    const std::string& name = cgroup.controllers;
    if (::mkdirat(directory.get(), name.c_str(), 0755) != 0)
      return fail_errno("make /sys/fs/cgroup/" + name);
    if (name.find(',') == std::string::npos) continue;
    for (std::string_view rest = name; !rest.empty();) {
      const std::string part(next_part(rest, ','));
      if (::symlinkat(name.c_str(), directory.get(), part.c_str()) != 0)
        return fail_errno("link /sys/fs/cgroup/" + part);
    }
  }
  UMWELT_CHECK(mount_on(root, "sys/fs/cgroup", directory.get()));
  for (const CgroupMount& cgroup : cgroups) {
    const UniqueFd mount = UMWELT_TRY(make_cgroup_filesystem(cgroup));
    const UniqueFd target =
        UMWELT_TRY(open_at(directory.get(), cgroup.controllers, O_PATH | O_DIRECTORY));
    UMWELT_CHECK(attach_mount(mount.get(), target.get()));
  }
  return restrict_mount(directory.get(), MOUNT_ATTR_RDONLY, false);
}

Result<void> cover_directory(int root, const std::string& path) {
  auto target = open_plain(root, path, O_PATH | O_DIRECTORY);
  if (!target && absent(target.error())) return {};
  if (!target) return fail(target.error());
  const UniqueFd empty = UMWELT_TRY(make_empty());
  return attach_mount(empty.get(), target->get());
}

Result<void> hide_paths(int root, bool views) {
  // The defaults of docker and of the OCI runtime specification.
  for (const char* file : {"proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list",
                           "proc/timer_stats", "proc/sched_debug"})
    UMWELT_CHECK(cover_file_if_there(root, file));
  if (!views) {
    UMWELT_CHECK(hide_heat(root));
    // The machine's blocks of memory, which no cgroup has a part of.
    UMWELT_CHECK(cover_file_if_there(root, "proc/pagetypeinfo"));
    UMWELT_CHECK(cover_directory(root, "sys/devices/system/memory"));
  }
  for (const char* directory :
       {"proc/acpi", "proc/asound", "proc/scsi", "sys/firmware", "sys/devices/virtual/powercap",
        "sys/block"})  // iostat prefers its counts, the machine's, to those of /proc/diskstats
    UMWELT_CHECK(cover_directory(root, directory));
  for (const char* path : {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"}) {
    auto target = open_plain(root, path, O_PATH);
    if (!target && absent(target.error())) continue;
    if (!target) return fail(target.error());
    const UniqueFd copy = UMWELT_TRY(clone_mount(target->get(), "", true));
    UMWELT_CHECK(restrict_mount(copy.get(), MOUNT_ATTR_RDONLY | kNoSpecials, true));
    UMWELT_CHECK(attach_mount(copy.get(), target->get()));
  }
  return {};
}

}  // namespace umwelt::launch
