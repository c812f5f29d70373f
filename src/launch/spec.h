// SPDX-License-Identifier: Apache-2.0
// What `umwelt run` was asked for, checked, and what is kept of it on disk.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/cpu_set.h"
#include "base/result.h"
#include "cgroup/state.h"
#include "vdisk/template.h"
#include "view/resources.h"

namespace umwelt::launch {

// Limits in the kernel's words; nullopt: not limited.
struct ResourceLimits {
  std::optional<CpuSet> cpuset_cpus;
  std::optional<CpuSet> cpuset_mems;
  std::optional<cgroup::Bandwidth> bandwidth;
  std::optional<std::uint64_t> cpu_shares;  // docker's scale, 2 to 262144
  std::optional<std::uint64_t> memory_bytes;
  std::optional<std::uint64_t> memory_swap_bytes;  // memory and swap together, as docker has it
  bool memory_swap_unlimited = false;              // --memory-swap -1
  std::optional<std::uint64_t> pids_limit;
};

enum class MountType { kBind, kTmpfs, kVolume };

struct Mount {
  MountType type = MountType::kBind;
  std::string source;  // absolute, of the host; "" for a tmpfs; a volume's name
  std::string target;  // absolute, in the container
  bool read_only = false;
  std::optional<std::uint64_t> size_bytes;  // tmpfs
  std::optional<mode_t> mode;               // tmpfs, default 1777
};

// "--disk": where what the container writes goes.
enum class DiskMode {
  kOverlay,  // a layer over the image, the rootfs or the host's root
  kClone,    // all of the image is on the vdisk
};
struct DiskSpec {
  std::uint64_t capacity_bytes = 0;  // of a new one
  std::string name;                  // of one that exists; "" for a new one
  DiskMode mode = DiskMode::kOverlay;
  vdisk::Class cls = vdisk::Class::kThin;
  bool keep = false;  // under the container's name, when that has ended
};

enum class Network { kHost, kNone };

// What happens when the daemon can't be reached.
enum class Views {
  kRequired,    // the container does not start
  kBestEffort,  // it starts, with the machine's files
  kNone,        // and that is what became of it
};

struct Spec {
  std::string id, name, hostname;
  std::vector<std::string> command;
  std::vector<std::string> environment;  // "KEY=value"
  std::string workdir;                   // "": "/"
  std::string user;                      // "name|uid[:group|gid]", "" is root
  std::string image;                     // "": none
  std::optional<DiskSpec> disk;
  std::string rootfs;  // "": the host's root, read-only below an overlay
  std::vector<Mount> mounts;
  ResourceLimits limits;
  view::Policy policy;
  Network network = Network::kHost;
  Views views = Views::kRequired;
  bool read_only = false, tty = false, interactive = false, detach = false, remove = false;
  bool init = false;  // a tiny init as pid 1 that reaps
};

enum class Status { kCreated, kRunning, kStopped };

// One container of the launcher, as `<runtime>/launched/ID/state.json` has it.
struct Launched {
  Spec spec;
  Status status = Status::kCreated;
  pid_t init_pid = 0;  // 0 until it runs
  std::uint64_t init_starttime = 0;
  pid_t monitor_pid = 0;  // the process that waits for it and tidies up
  std::uint64_t monitor_starttime = 0;
  std::int64_t created_s = 0, started_s = 0, finished_s = 0;  // since the epoch
  std::optional<int> exit_code;                               // 128 + signal when killed
  bool oom_killed = false;
};

nlohmann::json to_json(const Launched& launched);
Result<Launched> launched_from_json(const nlohmann::json& json);

}  // namespace umwelt::launch
