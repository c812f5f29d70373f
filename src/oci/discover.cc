// SPDX-License-Identifier: Apache-2.0
#include "oci/discover.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>

#include "base/file.h"
#include "base/parse.h"
#include "container/caller.h"
#include "container/record.h"

namespace umwelt::oci {
namespace {

struct Pattern {
  std::string_view runtime, prefix, suffix;  // of the last part of the cgroup's path
};
constexpr Pattern kPatterns[] = {
    {"docker", "docker-", ".scope"},
    {"podman", "libpod-", ".scope"},
    {"podman", "libpod-", ""},
    {"cri-o", "crio-", ".scope"},
    {"cri-o", "crio-", ""},
    {"containerd", "cri-containerd-", ".scope"},
    {"lxc", "lxc.payload.", ""},
    {"nspawn", "machine-", ".scope"},
    {"nspawn", "systemd-nspawn@", ".service"},
};
struct Parent {
  std::string_view runtime, name;  // of the part above the last one
};
constexpr Parent kParents[] = {{"docker", "docker"},     {"containerd", "default"},
                               {"containerd", "k8s.io"}, {"containerd", "moby"},
                               {"umwelt", "umwelt"},     {"lxc", "lxc"}};
constexpr std::size_t kHexId = 64;

bool is_hex_id(std::string_view text) {
  return text.size() == kHexId && text.find_first_not_of("0123456789abcdef") == text.npos;
}

std::vector<std::string_view> parts_of(std::string_view path) {
  std::vector<std::string_view> out;
  while (!path.empty()) {
    const std::string_view part = next_part(path, '/');
    if (!part.empty()) out.push_back(part);
  }
  return out;
}

Found recognize_part(std::string_view part, std::string_view above) {
  for (const Pattern& pattern : kPatterns) {
    if (part.size() <= pattern.prefix.size() + pattern.suffix.size() ||
        !part.starts_with(pattern.prefix) || !part.ends_with(pattern.suffix))
      continue;
    part.remove_prefix(pattern.prefix.size());
    part.remove_suffix(pattern.suffix.size());
    return {std::string(part), std::string(pattern.runtime), 0};
  }
  for (const Parent& parent : kParents)
    if (above == parent.name) return {std::string(part), std::string(parent.runtime), 0};
  if (is_hex_id(part)) return {std::string(part), "containerd", 0};
  return {};
}

Result<ino_t> mounts_of(const std::string& pid) {
  struct stat status {};
  if (::stat(("/proc/" + pid + "/ns/mnt").c_str(), &status) != 0)
    return fail_errno("mount namespace of process " + pid);
  return status.st_ino;
}

Result<bool> has_own_mounts(pid_t pid) {
  const ino_t theirs = UMWELT_TRY(mounts_of(std::to_string(pid)));
  return theirs != UMWELT_TRY(mounts_of("self"));
}

Result<pid_t> parent_of(pid_t pid) {
  const std::string text = UMWELT_TRY(read_file("/proc/" + std::to_string(pid) + "/status"));
  std::string_view rest = text;
  while (auto line = next_line(rest))
    if (next_word(*line) == "PPid:")
      return static_cast<pid_t>(parse_u64(next_word(*line)).value_or(0));
  return fail(ESRCH, "parent of process " + std::to_string(pid));
}

// The oldest of its ancestors, or itself, in the same mount namespace.
pid_t first_with_its_mounts(pid_t pid) {
  for (;;) {
    const auto parent = parent_of(pid);
    if (!parent || *parent == 0) return pid;
    const auto ours = mounts_of(std::to_string(pid)), theirs = mounts_of(std::to_string(*parent));
    if (!ours || !theirs || *ours != *theirs) return pid;
    pid = *parent;
  }
}

Result<Found> describe(pid_t pid) {
  const std::string text(UMWELT_TRY(container::read_proc_cgroup(pid)));
  Found best;
  for (const auto& [controller, path] : UMWELT_TRY(cgroup::parse_proc_cgroup(text))) {
    Found found = recognize_cgroup(path);
    if (!found.id.empty() && (best.id.empty() || found.runtime != "containerd"))
      best = std::move(found);
  }
  best.pid = pid;
  return best;
}

// The container of a process is that of the init of its pid namespace, unless it shares that with
// others: with the host, or with its pod.
Result<Found> find_by_pid(pid_t pid) {
  const pid_t init = UMWELT_TRY(container::find_init(pid));
  Found found = UMWELT_TRY(describe(init));
  Found own = UMWELT_TRY(describe(pid));
  if ((own.id.empty() || own.id == found.id) && UMWELT_TRY(has_own_mounts(init))) return found;
  own.pid = first_with_its_mounts(pid);
  return own;
}

// What a runtime's own program says is the pid.
std::optional<pid_t> ask(const std::string& program, const std::vector<std::string>& arguments,
                         const RunProgram& run) {
  std::vector<std::string> command = {program};
  command.insert(command.end(), arguments.begin(), arguments.end());
  const auto output = run(command);
  if (!output) return std::nullopt;
  const auto pid = parse_u64(trim(*output));
  return pid && *pid > 0 ? std::optional(static_cast<pid_t>(*pid)) : std::nullopt;
}

}  // namespace

Found recognize_cgroup(std::string_view path) {
  const auto parts = parts_of(path);
  // systemd in a container makes cgroups of its own below.
  for (std::size_t i = parts.size(); i-- > 0;) {
    Found found = recognize_part(parts[i], i > 0 ? parts[i - 1] : std::string_view());
    if (!found.id.empty()) return found;
  }
  return {};
}

Result<std::vector<Found>> find_containers() {
  std::vector<pid_t> pids;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error))
    if (const auto pid = parse_u64(entry.path().filename().string()))
      pids.push_back(static_cast<pid_t>(*pid));
  if (error) return fail(error.value(), "list /proc");
  std::sort(pids.begin(), pids.end());
  std::vector<Found> out, shared;
  for (const pid_t pid : pids) {
    // A process may go while it is looked at.
    const auto levels = container::read_pids(pid);
    if (!levels || !has_own_mounts(pid).value_or(false)) continue;
    const bool first = levels->size() == 2 && levels->back() == 1;
    if (!first && levels->size() != 1) continue;
    if (auto found = describe(pid)) (first ? out : shared).push_back(*std::move(found));
  }
  for (Found& found : shared) {
    const auto is_it = [&](const Found& known) { return known.id == found.id; };
    if (found.id.empty() || std::any_of(out.begin(), out.end(), is_it)) continue;
    found.pid = first_with_its_mounts(found.pid);
    found.host_pids = true;
    out.push_back(std::move(found));
  }
  return out;
}

Result<Found> find_container(const std::string& name, const RunProgram& run) {
  if (const auto pid = parse_u64(name); pid && *pid > 0 && *pid <= INT32_MAX) {
    auto found = find_by_pid(static_cast<pid_t>(*pid));
    if (found || found.error().code != ESRCH) return found;
  }
  std::optional<Found> found;
  for (Found& candidate : UMWELT_TRY(find_containers())) {
    if (candidate.id == name) return std::move(candidate);
    if (candidate.id.empty() || !candidate.id.starts_with(name)) continue;
    if (found) return fail(EEXIST, "several containers have an id that begins with " + name);
    found = std::move(candidate);
  }
  if (found) return *std::move(found);
  for (const auto& pid :
       {ask("docker", {"inspect", "--type", "container", "-f", "{{.State.Pid}}", name}, run),
        ask("podman", {"container", "inspect", "-f", "{{.State.Pid}}", name}, run),
        ask("lxc-info", {"-n", name, "-p", "-H"}, run),
        ask("machinectl", {"show", "--value", "-p", "Leader", name}, run)})
    if (pid) return describe(*pid);
  return fail(0,
              "no such container: " + name + " (its id, name or the pid of one of its processes)");
}

}  // namespace umwelt::oci
