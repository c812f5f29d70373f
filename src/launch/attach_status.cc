// SPDX-License-Identifier: Apache-2.0
#include "launch/attach_status.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "intercept/status.h"
#include "intercept/task.h"
#include "launch/inside.h"
#include "launch/mounts.h"
#include "launch/namespaces.h"
#include "launch/propagation.h"
#include "launch/views.h"

namespace umwelt::launch {
namespace {

constexpr const char* kName = "status";

// A link like "pid:[4026531836]".
Result<std::string> namespace_of(int dir, const std::string& path) {
  char text[64];
  const ssize_t n = ::readlinkat(dir, path.c_str(), text, sizeof text);
  if (n < 0) return fail_errno(path);
  return std::string(text, static_cast<std::size_t>(n));
}

// Whether a directory of a /proc is that of the process that is called `id` in `pid_namespace`, by
// that name. A /proc of a namespace further out has other numbers, and more than one for it.
Result<bool> is_of(int directory, pid_t id, const std::string& pid_namespace) {
  struct statfs status {};
  if (::fstatfs(directory, &status) != 0) return fail_errno("statfs");
  if (status.f_type != PROC_SUPER_MAGIC) return false;
  if (UMWELT_TRY(namespace_of(directory, "ns/pid")) != pid_namespace) return false;
  const std::string text = UMWELT_TRY(read_file_at(directory, kName));
  return text.find(fmt::format("\nNSpid:\t{}\n", id)) != std::string::npos;
}

Result<UniqueFd> open_status(const std::string& id, const container::Directories& directories,
                             pid_t process) {
  return clone_view(directories.live_mount() + "/" + id, {intercept::status_name(process), false});
}

Result<void> attach_to(const container::Record& record, const container::Directories& directories,
                       pid_t process) {
  const std::uint64_t born = UMWELT_TRY(container::read_starttime(process));
  const std::string proc = fmt::format("/proc/{}/", process);
  const pid_t id = UMWELT_TRY(intercept::id_for(process, process));
  const std::string pid_namespace = UMWELT_TRY(namespace_of(AT_FDCWD, proc + "ns/pid"));
  const Inside inside = UMWELT_TRY(open_inside(process));
  const auto propagation =
      UMWELT_TRY(Propagation::open(proc + "mountinfo", "/proc/self/mountinfo"));
  const UniqueFd mount = UMWELT_TRY(open_status(record.id, directories, process));
  if (UMWELT_TRY(container::read_starttime(process)) != born) return fail(ESRCH, "process");
  UMWELT_CHECK(enter(inside));
  const UniqueFd directory =
      UMWELT_TRY(open_plain(inside.root.get(), fmt::format("proc/{}", id), O_PATH | O_DIRECTORY));
  const UniqueFd target = UMWELT_TRY(open_plain(directory.get(), kName, O_PATH));
  const std::uint64_t below = UMWELT_TRY(stat_cached(directory.get())).stx_mnt_id;
  if (UMWELT_TRY(stat_cached(target.get())).stx_mnt_id != below) return {};  // covered
  if (!UMWELT_TRY(is_of(directory.get(), id, pid_namespace)))
    return fail(EPERM, "not in /proc by its own id");
  if (UMWELT_TRY(propagation.reaches_host(below)))
    return fail(EPERM, "/proc of the container is shared with the host");
  return attach_mount(mount.get(), target.get());
}

// The process whose file is mounted, by its id; nullopt for other views.
std::optional<pid_t> process_of_view(const PeerGroups::View& view) {
  if (!view.at.starts_with("/proc/") || !view.at.ends_with("/status")) return std::nullopt;
  const std::size_t slash = view.file.rfind('/');
  return intercept::parse_status_name(std::string_view(view.file).substr(slash + 1));
}

struct LostStatus {
  std::string path;  // "proc/17/status"
  UniqueFd mount;    // of this daemon, attached nowhere yet; none where the process has gone
};

Result<void> replace_one(int root, const LostStatus& lost) {
  const std::string parent = lost.path.substr(0, lost.path.rfind('/'));
  const UniqueFd directory = UMWELT_TRY(open_plain(root, parent, O_PATH | O_DIRECTORY));
  const UniqueFd there = UMWELT_TRY(open_plain(directory.get(), kName, O_PATH));
  if (!is_dead(there.get())) return {};
  if (!lost.mount) return detach(directory.get(), kName);
  return replace(directory.get(), kName, lost.mount.get());
}

Result<void> replace_lost(const container::Record& record,
                          const container::Directories& directories) {
  const UniqueFd init = UMWELT_TRY(open_process(record.init_pid, record.init_starttime));
  const Inside inside = UMWELT_TRY(open_inside(record.init_pid));
  const auto propagation =
      UMWELT_TRY(Propagation::open(fmt::format("/proc/{}/mountinfo", record.init_pid), ""));
  UMWELT_TRY(open_process(record.init_pid, record.init_starttime));
  std::vector<LostStatus> lost;
  for (const PeerGroups::View& view : UMWELT_TRY(propagation.views())) {
    const auto process = process_of_view(view);
    if (!process) continue;
    auto mount = open_status(record.id, directories, *process);
    lost.push_back({view.at.substr(1), mount ? *std::move(mount) : UniqueFd()});
  }
  if (lost.empty()) return {};
  UMWELT_CHECK(enter(inside));
  for (const LostStatus& status : lost) (void)replace_one(inside.root.get(), status);
  return {};
}

}  // namespace

Result<void> attach_status(const container::Record& record,
                           const container::Directories& directories, pid_t process) {
  return in_thread(kAttachPatience, [=] { return attach_to(record, directories, process); });
}

Result<Attached> attach_again(const container::Record& record,
                              const container::Directories& directories) {
  const Attached attached = UMWELT_TRY(attach_views(record, directories, {}, kAttachPatience));
  UMWELT_CHECK(in_thread(kAttachPatience, [=] { return replace_lost(record, directories); }));
  return attached;
}

}  // namespace umwelt::launch
