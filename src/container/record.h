// SPDX-License-Identifier: Apache-2.0
// What is known of a registered container, on disk and on the control socket.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "cgroup/reader.h"
#include "view/resources.h"

namespace umwelt::container {

struct Record {
  // Given by the daemon to those that are registered, never used twice; node ids carry it.
  std::uint64_t number = 0;
  std::string id;  // [a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}
  std::string name, hostname;
  pid_t init_pid = 0;  // of the container's init in the daemon's pid namespace; 0: none
  std::uint64_t init_starttime = 0;  // /proc/PID/stat field 22: tells a pid from its later reuse
  cgroup::Paths cgroup_paths;        // controller -> path
  std::uint64_t cgroup_inode = 0;    // of its directory: tells it from a later one of that name
  std::uint64_t start_boottime_ns = 0;
  std::int64_t start_realtime_s = 0;
  bool time_namespace = false;
  std::optional<std::uint64_t> disk_capacity_bytes;
  std::optional<view::Disk> disk;
  bool grows_on_host = false;  // what it writes takes space from the pool of vdisks
  view::Policy policy;

  view::Identity identity() const;
};

// Whether `id` may name a container: it becomes part of paths and cgroup names.
bool valid_id(std::string_view id);

// An absent field has its default. EINVAL, with the field's name, for one that is out of bounds:
// names without control characters, cgroup paths absolute and without "..".
nlohmann::json to_json(const Record& record);
Result<Record> record_from_json(const nlohmann::json& value);

nlohmann::json to_json(const view::Policy& policy);
Result<view::Policy> policy_from_json(const nlohmann::json& value);

struct ProcessStat {            // of /proc/PID/stat (proc(5))
  char state = '?';             // 'Z': dead, not yet reaped
  std::uint64_t starttime = 0;  // clock ticks since boot
};
// ESRCH when there is no such process.
Result<ProcessStat> read_process_stat(pid_t pid);
Result<std::uint64_t> read_starttime(pid_t pid);
// The clocks of the machine, in the daemon's own time namespace, as /proc/PID/stat has them.
std::uint64_t boottime_ns();  // CLOCK_BOOTTIME
std::uint64_t starttime_to_boottime_ns(std::uint64_t starttime);
std::int64_t boottime_to_realtime_s(std::uint64_t boottime_ns);

// Whether it is still that process, and not a zombie. Fails where that can't be told (EMFILE, ...).
Result<bool> is_process(pid_t pid, std::uint64_t starttime);
// The same, and true where it can't be told: for who would drop what belongs to it.
bool process_lives(pid_t pid, std::uint64_t starttime);

// The launcher's own paths, below the runtime and the state directory.
struct Directories {
  std::string runtime = "/run/umwelt";
  std::string state = "/var/lib/umwelt";
  std::string config = "/etc/umwelt/umwelt.toml";

  std::string socket() const { return runtime + "/umweltd.sock"; }
  // Has the daemon's pid, and is locked as long as one runs.
  std::string lock() const { return runtime + "/umweltd.lock"; }
  std::string records() const { return runtime + "/records"; }      // ID.json, by the daemon
  std::string launched() const { return runtime + "/launched"; }    // ID/, by the launcher
  std::string config_mount() const { return runtime + "/config"; }  // the config connection
  std::string live_mount() const { return runtime + "/live"; }      // the live connection
  std::string pressure_mount() const { return runtime + "/pressure"; }
  // Of all connections, in the order of view::Connection.
  std::array<std::string, 3> mounts() const {
    return {config_mount(), live_mount(), pressure_mount()};
  }
  std::string shared_proc() const { return state + "/proc"; }  // lxcfs's layout
  std::string shared_sys() const { return state + "/sys"; }
};
// From --runtime-dir and the like ("" when not given), else UMWELT_RUNTIME_DIR, UMWELT_STATE_DIR,
// UMWELT_CONFIG, else the defaults. A whole sentence (code 0) with the name of option or variable
// for a path that is not absolute or has ".."; ENAMETOOLONG when the control socket's path would
// not fit in a sockaddr_un.
Result<Directories> directories(const std::string& runtime, const std::string& state,
                                const std::string& config);

}  // namespace umwelt::container
