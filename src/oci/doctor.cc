// SPDX-License-Identifier: Apache-2.0
#include "oci/doctor.h"

#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/child_process.h"
#include "base/file.h"
#include "base/parse.h"
#include "cgroup/hierarchies.h"
#include "control/client.h"
#include "intercept/room.h"
#include "oci/setup.h"

namespace umwelt::oci {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kLeastFreeBytes = 64U << 20;
constexpr double kLeastFreeShare = 0.05;
constexpr std::chrono::milliseconds kPatience{3000};
constexpr const char* kRestart =
    "systemctl restart umweltd   (or umwelt daemon stop --force; umwelt daemon start)";
constexpr const char* kAsRoot = "umwelt doctor   (as root)";

// Whether the kernel has a system call: called with arguments that can't succeed.
bool has_syscall(long number) {
  return ::syscall(number, -1, nullptr, 0, nullptr, 0) >= 0 || errno != ENOSYS;
}

bool in_path(const char* program) {
  const char* path = std::getenv("PATH");
  std::string_view rest = path == nullptr ? "/usr/sbin:/usr/bin:/sbin:/bin" : path;
  while (!rest.empty()) {
    const std::string_view folder = next_part(rest, ':');
    if (::access((std::string(folder) + "/" + program).c_str(), X_OK) == 0) return true;
  }
  return false;
}

void add(std::vector<Finding>& out, bool good, const std::string& check, const std::string& fine,
         const std::string& wrong, const std::string& mend, Level level = Level::kFailure) {
  out.push_back(good ? Finding{check, Level::kGood, fine, ""} : Finding{check, level, wrong, mend});
}

}  // namespace

Result<bool> is_mounted(const std::string& path) {
  const auto answer = [&]() -> Result<std::string> {
    // stat(2) alone the kernel may answer from what it remembers.
    struct statvfs filesystem {};
    struct stat here {
    }, above{};
    const std::string parent = fs::path(path).parent_path();
    if (::statvfs(path.c_str(), &filesystem) != 0 || ::stat(path.c_str(), &here) != 0 ||
        ::stat(parent.c_str(), &above) != 0)
      return fail_errno(path);
    return here.st_dev != above.st_dev ? "mounted" : "";
  };
  return !UMWELT_TRY(run_apart(answer, kPatience)).empty();
}

std::vector<Finding> examine(const container::Directories& directories) {
  std::vector<Finding> out;
  examine_kernel(out);
  const bool daemon = examine_daemon(directories, out);
  examine_mounts(directories, daemon, out);
  // Files of a daemon that does not answer would not either.
  if (daemon) examine_containers(directories, out);
  examine_runtimes(directories, out);
  examine_leaks(directories, out);
  examine_disk(directories, out);
  return out;
}

void examine_kernel(std::vector<Finding>& out) {
  const int error = ::access("/dev/fuse", R_OK | W_OK) == 0 ? 0 : errno;
  add(out, error == 0, "fuse", "/dev/fuse is there",
      std::string("/dev/fuse can't be opened: ") + std::strerror(error),
      error == EACCES ? kAsRoot : "modprobe fuse   (as root)");
  std::string missing;
  for (const auto& [number, name] :
       std::initializer_list<std::pair<long, const char*>>{{SYS_openat2, "openat2"},
                                                           {SYS_open_tree, "open_tree"},
                                                           {SYS_move_mount, "move_mount"},
                                                           {SYS_mount_setattr, "mount_setattr"},
                                                           {SYS_pidfd_open, "pidfd_open"}})
    if (!has_syscall(number)) missing += std::string(missing.empty() ? "" : ", ") + name;
  add(out, missing.empty(), "kernel", "it has every system call that is used",
      "it lacks " + missing, "a kernel of 5.12 or later");
  add(out, ::access("/proc/self/ns/time", F_OK) == 0, "time namespaces", "there are",
      "there are none: uptime(1) is right, the ages that ps(1) shows are the host's",
      "a kernel of 5.6 or later with CONFIG_TIME_NS", Level::kWarning);
  if (const auto room = intercept::check_room_for_listener(); !room)
    out.push_back({"system calls", Level::kWarning,
                   room.error().message() + ": in containers that are started from here the kernel "
                                            "answers them",
                   "umwelt run --intercept off   (those of other runtimes start as they are)"});

  const auto hierarchies = cgroup::Hierarchies::read();
  if (!hierarchies) {
    out.push_back({"cgroups", Level::kFailure, hierarchies.error().message(),
                   "mount -t cgroup2 none /sys/fs/cgroup"});
    return;
  }
  const std::string v2 =
      hierarchies->v2.empty()
          ? std::string()
          : " " + read_file(hierarchies->v2 + "/cgroup.controllers").value_or("");
  std::string lacking;
  for (const char* controller : {"cpu", "cpuset", "memory", "pids"}) {
    bool there = hierarchies->v1.contains(controller);
    for (std::string_view rest = v2, word; !(word = next_word(rest)).empty();)
      there = there || word == controller;
    if (!there) lacking += std::string(lacking.empty() ? "" : ", ") + controller;
  }
  add(out, lacking.empty(), "cgroups", "cpu, cpuset, memory and pids are mounted",
      "no controller " + lacking + ": those limits can't be set or shown",
      "boot with cgroup_enable=" + lacking, Level::kWarning);
}

bool examine_daemon(const container::Directories& directories, std::vector<Finding>& out) {
  auto client = control::Client::connect(directories.socket(), kPatience);
  auto reply =
      client ? client->call({{"op", "ping"}}) : Result<nlohmann::json>(fail(client.error()));
  if (!reply) {
    const bool hangs = reply.error().code == EAGAIN || reply.error().code == ETIMEDOUT;
    out.push_back({"daemon", Level::kFailure, "umweltd does not answer: " + reply.error().message(),
                   reply.error().code == EACCES ? kAsRoot
                   : hangs                      ? kRestart
                           : "umwelt daemon start   (or systemctl start umweltd)"});
    return false;
  }
  const std::string version = reply->value("version", "?");
  add(out, version == UMWELT_VERSION, "daemon",
      fmt::format("umweltd {} answers, process {}", version, reply->value("pid", 0)),
      fmt::format("umweltd is {}, this program {}", version, UMWELT_VERSION), kRestart,
      Level::kWarning);
  return true;
}

void examine_mounts(const container::Directories& directories, bool daemon,
                    std::vector<Finding>& out) {
  const auto mounts = directories.mounts();
  std::vector<std::string> paths(mounts.begin(), mounts.end());
  paths.insert(paths.end(), {directories.shared_proc(), directories.shared_sys()});
  for (const std::string& path : paths) {
    const auto mounted = is_mounted(path);
    if (mounted) {
      if (daemon)
        add(out, *mounted, "mounts", path + " is alive", path + " is not mounted", kRestart);
      continue;
    }
    const int code = mounted.error().code;
    // Nothing was mounted, and nobody is there to mount it.
    if (!daemon && code != ENOTCONN && code != ETIMEDOUT) continue;
    out.push_back({"mounts", Level::kFailure,
                   path + (code == ENOTCONN    ? ": its daemon died"
                           : code == ETIMEDOUT ? ": its daemon does not answer"
                                               : std::string(": ") + std::strerror(code)),
                   code == ETIMEDOUT ? kRestart
                   : daemon          ? "systemctl restart umweltd"
                                     : "umwelt daemon start"});
    if (code == ETIMEDOUT) return;  // the others are the same daemon's
  }
}

void examine_runtimes(const container::Directories& directories, std::vector<Finding>& out) {
  const auto paths = own_setup_paths(directories);
  constexpr std::array<std::pair<const char*, const char*>, 6> kPrograms = {
      {{"docker", "dockerd"},
       {"podman", "podman"},
       {"containerd", "containerd"},
       {"crio", "crio"},
       {"lxc", "lxc-start"},
       {"nspawn", "systemd-nspawn"}}};
  for (const auto& [runtime, program] : kPrograms) {
    if (!in_path(program)) continue;
    add(out, paths && is_set_up(runtime, *paths), "runtimes", std::string(runtime) + " is set up",
        std::string(runtime) + " is here and not set up: its containers see the host",
        std::string("umwelt setup ") + runtime, Level::kNote);
  }
}

void examine_disk(const container::Directories& directories, std::vector<Finding>& out) {
  for (const std::string& path : {directories.runtime, directories.state}) {
    struct statvfs status {};
    if (::statvfs(path.c_str(), &status) != 0) {
      // Made by the first start.
      if (errno != ENOENT)
        out.push_back(
            {"disk", Level::kFailure, path + ": " + std::strerror(errno), "mount " + path});
      continue;
    }
    if ((status.f_flag & ST_RDONLY) != 0) {
      out.push_back({"disk", Level::kFailure, path + " is on a read-only filesystem",
                     "mount -o remount,rw $(findmnt -no TARGET --target " + path + ")"});
      continue;
    }
    const std::uint64_t free = status.f_bavail * status.f_frsize;
    const double share = status.f_blocks == 0 ? 1.0
                                              : static_cast<double>(status.f_bavail) /
                                                    static_cast<double>(status.f_blocks);
    const std::string text = fmt::format("{}: {} MiB free", path, free >> 20);
    add(out, free >= kLeastFreeBytes && share >= kLeastFreeShare, "disk", text,
        text + fmt::format(" ({:.0f} %)", share * 100), "df -h " + path, Level::kWarning);
  }
}

}  // namespace umwelt::oci
