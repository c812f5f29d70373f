// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "base/cpu_set.h"
#include "base/file.h"
#include "base/parse.h"
#include "cgroup/reader.h"
#include "control/client.h"
#include "launch/store.h"
#include "oci/doctor.h"
#include "vdisk/loop.h"
#include "vdisk/paths.h"

namespace umwelt::oci {
namespace {

namespace fs = std::filesystem;

std::string mend_of(const container::Record& record) {
  return "umwelt attach " + std::to_string(record.init_pid);
}

// What the files say that the container's init sees.
struct Seen {
  std::uint64_t memory_bytes = 0;
  unsigned cpus = 0;
};
Result<Seen> look_inside(const container::Record& record) {
  const std::string root = "/proc/" + std::to_string(record.init_pid) + "/root";
  const std::string meminfo = UMWELT_TRY(read_file(root + "/proc/meminfo"));
  const std::string cpuinfo = UMWELT_TRY(read_file(root + "/proc/cpuinfo"));
  Seen seen;
  std::string_view rest = meminfo;
  while (auto line = next_line(rest))
    if (next_word(*line) == "MemTotal:")
      seen.memory_bytes = parse_u64(next_word(*line)).value_or(0) << 10;
  rest = cpuinfo;
  while (auto line = next_line(rest))
    if (next_word(*line) == "processor") ++seen.cpus;
  return seen;
}

// What the kernel enforces, read by this process and not by the daemon.
Result<cgroup::Limits> enforced(const container::Record& record) {
  const auto hierarchies = UMWELT_TRY(cgroup::Hierarchies::read());
  auto reader = UMWELT_TRY(cgroup::Reader::open(hierarchies, record.cgroup_paths));
  const std::string online = UMWELT_TRY(read_file("/sys/devices/system/cpu/online"));
  return reader.read_limits(CpuSet::parse(online).value_or(CpuSet()));
}

// "" when it is as it should be.
std::string differences(const Seen& seen, const cgroup::Limits& limits) {
  std::string out;
  if (limits.memory_max_bytes && seen.memory_bytes >> 10 != *limits.memory_max_bytes >> 10)
    out += fmt::format("it is shown {} KiB of memory, its cgroup has {}", seen.memory_bytes >> 10,
                       *limits.memory_max_bytes >> 10);
  // A quota may show less than the cpuset.
  if (seen.cpus == 0 || seen.cpus > limits.cpus.count())
    out += fmt::format("{}it is shown {} CPUs, its cgroup has {}", out.empty() ? "" : "; ",
                       seen.cpus, limits.cpus.count());
  return out;
}

Finding examine_one(const container::Record& record) {
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
  const auto seen = look_inside(record);
  const auto limits = enforced(record);
  if (!seen) {
    finding.text = "its files can't be read: " + seen.error().message();
  } else if (!limits) {
    finding.text = "its cgroup can't be read: " + limits.error().message();
  } else if (finding.text = differences(*seen, *limits); finding.text.empty()) {
    finding.level = Level::kGood;
    finding.mend.clear();
    finding.text =
        fmt::format("{} CPUs, {} MiB, as its cgroup", seen->cpus, seen->memory_bytes >> 20);
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
  for (const Suspect& suspect : suspects)
    if (!named.contains(suspect.file))
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
                       "rmdir " + entry.path().string()});
    }
}

void examine_dead_mounts(std::vector<Finding>& out) {
  const auto text = read_file("/proc/self/mountinfo");
  if (!text) return;
  std::string_view rest = *text;
  while (auto line = next_line(rest)) {
    if (line->find(" - fuse.umwelt ") == std::string_view::npos) continue;
    for (int field = 1; field <= 4; ++field) next_word(*line);
    const std::string path = unescape_octal(next_word(*line));
    if (is_dead_mount(path))
      out.push_back({"leaks", Level::kWarning, path + " is a mount of a daemon that died",
                     "umount -l " + path});
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
  for (const container::Record& record : *records) out.push_back(examine_one(record));
}

void examine_leaks(const container::Directories& directories, std::vector<Finding>& out) {
  const std::size_t before = out.size();
  examine_loops(directories, out);
  examine_cgroups(directories, out);
  examine_dead_mounts(out);
  if (out.size() == before)
    out.push_back({"leaks", Level::kGood, "no mount, loop device or cgroup is left over", ""});
}

}  // namespace umwelt::oci
