// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/cpu_set.h"
#include "base/file.h"
#include "base/parse.h"
#include "cgroup/reader.h"
#include "control/client.h"
#include "launch/store.h"
#include "oci/doctor.h"

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

// Attached to a file below the state folder that is not there any more.
void examine_loops(const container::Directories& directories, std::vector<Finding>& out) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/sys/block", error)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("loop")) continue;
    const auto text = read_file(entry.path().string() + "/loop/backing_file");
    if (!text) continue;
    const std::string_view file = trim(*text);
    if (file.starts_with(directories.state + "/") && file.ends_with(" (deleted)"))
      out.push_back({"leaks", Level::kWarning,
                     fmt::format("/dev/{} holds the deleted file {}", name, file),
                     "losetup -d /dev/" + name});
  }
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
