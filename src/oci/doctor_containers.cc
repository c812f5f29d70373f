// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "base/child_process.h"
#include "base/cpu_set.h"
#include "base/file.h"
#include "base/parse.h"
#include "cgroup/reader.h"
#include "control/client.h"
#include "launch/attach.h"
#include "launch/mounts.h"
#include "launch/store.h"
#include "oci/doctor.h"
#include "vdisk/loop.h"
#include "vdisk/paths.h"
#include "vdisk/staging.h"

namespace umwelt::oci {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxFileBytes = 4U << 20;
constexpr std::chrono::seconds kPatience{3};

std::string mend_of(const container::Record& record) {
  return "umwelt attach " + std::to_string(record.init_pid);
}

// Of a file that the container's processes may have covered by anything: nullopt where that is none
// to be read.
Result<std::optional<std::string>> read_inside(int root, const char* path) {
  auto file = launch::open_plain(root, path, O_PATH);
  if (!file && (file.error().code == ENOENT || file.error().code == ELOOP))
    return std::optional<std::string>();
  if (!file) return fail(file.error());
  struct stat status {};
  if (::fstat(file->get(), &status) != 0) return fail_errno(path);
  if (!S_ISREG(status.st_mode)) return std::optional<std::string>();
  return UMWELT_TRY(read_file(fmt::format("/proc/self/fd/{}", file->get()), kMaxFileBytes));
}

// What the files say that the container's init sees; nullopt of one that is covered.
struct Seen {
  std::optional<std::uint64_t> memory_bytes, cpus;
};
Result<Seen> look_inside(pid_t init) {
  const UniqueFd root =
      UMWELT_TRY(open_at(AT_FDCWD, fmt::format("/proc/{}/root", init), O_PATH | O_DIRECTORY));
  Seen seen;
  if (const auto meminfo = UMWELT_TRY(read_inside(root.get(), "proc/meminfo"))) {
    std::string_view rest = *meminfo;
    while (auto line = next_line(rest))
      if (next_word(*line) == "MemTotal:") seen.memory_bytes = parse_u64(next_word(*line));
    if (seen.memory_bytes) *seen.memory_bytes <<= 10;
  }
  if (const auto cpuinfo = UMWELT_TRY(read_inside(root.get(), "proc/cpuinfo"))) {
    seen.cpus = 0;
    std::string_view rest = *cpuinfo;
    while (auto line = next_line(rest))
      if (next_word(*line) == "processor") ++*seen.cpus;
  }
  return seen;
}

// One that mounted a filesystem there which does not answer holds up nobody.
Result<Seen> look_inside_apart(pid_t init) {
  const auto print = [](const std::optional<std::uint64_t>& value) {
    return value ? std::to_string(*value) : "-";
  };
  const auto look = [&]() -> Result<std::string> {
    const Seen seen = UMWELT_TRY(look_inside(init));
    return print(seen.memory_bytes) + " " + print(seen.cpus);
  };
  const std::string text = UMWELT_TRY(run_apart(look, kPatience));
  std::string_view rest = text;
  Seen seen;
  seen.memory_bytes = parse_u64(next_word(rest));
  seen.cpus = parse_u64(next_word(rest));
  return seen;
}

// What the kernel enforces, read by this process and not by the daemon.
Result<cgroup::Limits> enforced(const container::Record& record) {
  const auto hierarchies = UMWELT_TRY(cgroup::Hierarchies::read());
  auto reader = UMWELT_TRY(cgroup::Reader::open(hierarchies, record.cgroup_paths));
  const std::string online = UMWELT_TRY(read_file("/sys/devices/system/cpu/online"));
  return reader.read_limits(CpuSet::parse(online).value_or(CpuSet()));
}

std::uint64_t host_memory_bytes() {
  struct sysinfo info {};
  ::sysinfo(&info);
  return std::uint64_t{info.totalram} * info.mem_unit;
}

// "" when it is as it should be. A limit above what the machine has limits nothing.
std::string differences(const Seen& seen, const cgroup::Limits& limits,
                        const std::vector<std::string>& groups) {
  const auto chosen = [&](const char* group) {
    return groups.empty() || std::find(groups.begin(), groups.end(), group) != groups.end();
  };
  std::string out;
  const auto& limit = limits.memory_max_bytes;
  if (chosen("memory") && seen.memory_bytes && limit && *limit < host_memory_bytes() &&
      *seen.memory_bytes >> 10 != *limit >> 10)
    out += fmt::format("it is shown {} KiB of memory, its cgroup has {}", *seen.memory_bytes >> 10,
                       *limit >> 10);
  // A quota may show less than the cpuset.
  if (chosen("cpu") && seen.cpus && (*seen.cpus == 0 || *seen.cpus > limits.cpus.count()))
    out += fmt::format("{}it is shown {} CPUs, its cgroup has {}", out.empty() ? "" : "; ",
                       *seen.cpus, limits.cpus.count());
  return out;
}

std::string describe(const Seen& seen) {
  if (!seen.memory_bytes || !seen.cpus) return "something of its own covers its files";
  return fmt::format("{} CPUs, {} MiB, as its cgroup", *seen.cpus, *seen.memory_bytes >> 20);
}

Finding examine_one(const container::Record& record, const container::Directories& directories) {
  Finding finding{"container " + (record.name.empty() ? record.id : record.name), Level::kFailure,
                  "", mend_of(record)};
  if (record.init_pid == 0) {
    finding = {finding.check, Level::kGood, "has no init process to look at", ""};
    return finding;
  }
  if (!container::process_lives(record.init_pid, record.init_starttime)) {
    finding = {finding.check, Level::kGood, "ends at this moment", ""};
    return finding;
  }
  const auto seen = look_inside_apart(record.init_pid);
  const auto limits = enforced(record);
  if (!seen) {
    finding.text = "its files can't be read: " + seen.error().message();
  } else if (!limits) {
    finding.text = "its cgroup can't be read: " + limits.error().message();
  } else if (finding.text = differences(
                 *seen, *limits,
                 launch::read_choice(record.id, directories).value_or(std::vector<std::string>()));
             finding.text.empty()) {
    finding.level = Level::kGood;
    finding.mend.clear();
    finding.text = describe(*seen);
  }
  return finding;
}

// The files of vdisks and images that have a name.
std::set<vdisk::LoopFile> named_files(const container::Directories& directories) {
  const std::string vdisks = vdisk::vdisks_directory(directories);
  std::set<vdisk::LoopFile> files;
  std::error_code error;
  // In the direction in which one that is taken moves.
  for (const std::string& folder :
       {vdisks + "/" + vdisk::kReadyFolder, vdisks, vdisk::images_directory(directories)})
    for (const auto& entry : fs::directory_iterator(folder, error)) {
      struct stat status {};
      if (::lstat(entry.path().c_str(), &status) == 0) files.insert({status.st_dev, status.st_ino});
    }
  return files;
}

// Attached to a file below the state folder that is not there any more. A vdisk was attached before
// it had a name, so that the kernel calls it deleted as long as it lives.
void examine_loops(const container::Directories& directories, std::vector<Finding>& out) {
  struct Suspect {
    unsigned number;
    vdisk::LoopFile file;
    std::string path;
  };
  std::vector<Suspect> suspects;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/sys/block", error)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("loop")) continue;
    const auto number = parse_u64(std::string_view(name).substr(4));
    const auto text = read_file(entry.path().string() + "/loop/backing_file");
    if (!text || !number) continue;
    const std::string_view path = trim(*text);
    if (!path.starts_with(directories.state + "/") || !path.ends_with(" (deleted)")) continue;
    if (const auto file = vdisk::read_loop_file(static_cast<unsigned>(*number)))
      suspects.push_back({static_cast<unsigned>(*number), *file, std::string(path)});
  }
  // Names after devices: a new vdisk may get its name in between.
  const auto named = suspects.empty() ? std::set<vdisk::LoopFile>() : named_files(directories);
  std::erase_if(suspects, [&](const Suspect& suspect) { return named.contains(suspect.file); });
  // One whose container has just ended is being detached.
  if (!suspects.empty()) std::this_thread::sleep_for(std::chrono::seconds(1));
  for (const Suspect& suspect : suspects)
    if (vdisk::read_loop_file(suspect.number) == suspect.file)
      out.push_back(
          {"leaks", Level::kWarning,
           fmt::format("/dev/loop{} holds the deleted file {}", suspect.number, suspect.path),
           fmt::format("losetup -d /dev/loop{}", suspect.number)});
}

void examine_cgroups(const container::Directories& directories, std::vector<Finding>& out) {
  const auto hierarchies = cgroup::Hierarchies::read();
  if (!hierarchies) return;
  std::vector<std::string> mounts;
  for (const auto& [controller, mount] : hierarchies->v1) mounts.push_back(mount);
  if (!hierarchies->v2.empty()) mounts.push_back(hierarchies->v2);
  std::error_code error;
  for (const std::string& mount : mounts)
    for (const auto& entry : fs::directory_iterator(mount + "/umwelt", error)) {
      if (!entry.is_directory(error)) continue;
      const std::string id = entry.path().filename();
      const auto procs = read_file(entry.path().string() + "/cgroup.procs");
      if (procs && procs->empty() &&
          ::access((directories.launched() + "/" + id).c_str(), F_OK) != 0 &&
          ::access((directories.records() + "/" + id + ".json").c_str(), F_OK) != 0)
        out.push_back({"leaks", Level::kWarning, "cgroup " + entry.path().string() + " is nobody's",
                       "find " + entry.path().string() + " -depth -type d -exec rmdir {} +"});
    }
}

// Those of this daemon's own folders come alive when it is started (examine_mounts).
void examine_dead_mounts(const container::Directories& directories, std::vector<Finding>& out) {
  const auto text = read_file("/proc/self/mountinfo");
  if (!text) return;
  std::string_view rest = *text;
  while (auto line = next_line(rest)) {
    if (line->find(" - fuse.umwelt ") == std::string_view::npos) continue;
    for (int field = 1; field <= 4; ++field) next_word(*line);
    const std::string path = unescape_octal(next_word(*line));
    if (path.starts_with(directories.runtime + "/") || path.starts_with(directories.state + "/"))
      continue;
    if (const auto mounted = is_mounted(path); !mounted && mounted.error().code == ENOTCONN)
      out.push_back({"leaks", Level::kWarning, path + " is a mount of a daemon that died",
                     "umount -l " + path});
  }
}

void examine_imports(const container::Directories& directories, std::vector<Finding>& out) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(vdisk::images_directory(directories), error)) {
    if (!entry.path().filename().string().starts_with(vdisk::kStaging)) continue;
    const std::string path = entry.path();
    const auto staging = open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (staging && ::flock(staging->get(), LOCK_SH | LOCK_NB) == 0)
      out.push_back(
          {"leaks", Level::kWarning, path + " is of an import that was cut off", "rm -r " + path});
  }
}

}  // namespace

void examine_containers(const container::Directories& directories, std::vector<Finding>& out) {
  auto client = control::Client::connect(directories.socket());
  const auto records =
      client ? client->list() : Result<std::vector<container::Record>>(fail(client.error()));
  if (!records) {
    out.push_back(
        {"containers", Level::kFailure, records.error().message(), "umwelt daemon status"});
    return;
  }
  if (records->empty()) out.push_back({"containers", Level::kGood, "none is registered", ""});
  for (const container::Record& record : *records) out.push_back(examine_one(record, directories));
}

void examine_leaks(const container::Directories& directories, std::vector<Finding>& out) {
  const std::size_t before = out.size();
  examine_loops(directories, out);
  examine_imports(directories, out);
  examine_cgroups(directories, out);
  examine_dead_mounts(directories, out);
  if (out.size() == before)
    out.push_back(
        {"leaks", Level::kGood, "no mount, loop device, import or cgroup is left over", ""});
}

}  // namespace umwelt::oci
