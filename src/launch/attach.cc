// SPDX-License-Identifier: Apache-2.0
#include "launch/attach.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <future>
#include <iterator>
#include <map>
#include <memory>

#include "base/file.h"
#include "base/parse.h"
#include "launch/inside.h"
#include "launch/mounts.h"
#include "launch/namespaces.h"
#include "launch/propagation.h"
#include "launch/view_groups.h"
#include "launch/views.h"

namespace umwelt::launch {
namespace {

constexpr unsigned kMostStacked = 64;

struct OpenView {
  View view;
  UniqueFd mount;  // attached nowhere yet
  std::string id;  // of the container

  // As PeerGroups::View has it.
  std::string file(const struct statx& status) const {
    return fmt::format("{}:{} /{}/{}", status.stx_dev_major, status.stx_dev_minor, id, view.path);
  }
};

std::string choice_path(const std::string& id, const container::Directories& directories) {
  return directories.records() + "/" + id + ".views";
}

bool chosen(const std::vector<std::string>& groups, const KnownView& view) {
  return groups.empty() || std::find(groups.begin(), groups.end(), view.group) != groups.end();
}

// Those of the live connection, or all others.
Result<std::vector<OpenView>> open_half(const container::Record& record,
                                        const container::Directories& directories,
                                        const std::vector<std::string>& groups, bool live) {
  const auto mounts = directories.mounts();
  std::vector<OpenView> out;
  for (const KnownView& known : known_views()) {
    if (!chosen(groups, known) || (known.connection == view::Connection::kLive) != live) continue;
    View view{std::string(known.path), known.directory};
    auto mount =
        clone_view(mounts[static_cast<std::size_t>(known.connection)] + "/" + record.id, view);
    if (!mount && mount.error().code == ENOENT) continue;  // the host has no such file
    if (!mount) return fail(mount.error());
    out.push_back({std::move(view), *std::move(mount), record.id});
  }
  return out;
}

// Two threads: most of the time is the daemon and who asks waking each other for every name. Each
// has filesystems of its own: where two ask for one name at once, Linux 6.16 and later may take the
// name for outdated, and nothing can be mounted of it.
Result<std::vector<OpenView>> open_views(const container::Record& record,
                                         const container::Directories& directories) {
  const auto groups = UMWELT_TRY(read_choice(record.id, directories));
  auto live = std::async([&]() -> Result<std::vector<OpenView>> {
    // Who enters a mount namespace shares its working directory with nobody.
    if (::unshare(CLONE_FS) != 0) return fail_errno("unshare the working directory");
    return open_half(record, directories, groups, true);
  });
  auto out = open_half(record, directories, groups, false);
  auto rest = live.get();
  if (!out) return fail(out.error());
  if (!rest) return fail(rest.error());
  std::move(rest->begin(), rest->end(), std::back_inserter(*out));
  if (out->empty()) return fail(ENOENT, "the daemon offers no views of " + record.id);
  return out;
}

bool same_inode(const struct statx& a, const struct statx& b) {
  return a.stx_ino == b.stx_ino && a.stx_dev_major == b.stx_dev_major &&
         a.stx_dev_minor == b.stx_dev_minor;
}

// Places views below one root directory, in a thread that has the namespace and a working
// directory of its own.
class Attacher {
 public:
  Attacher(int root, const Propagation& propagation) : root_(root), propagation_(propagation) {}

  Result<Attached> operator()(const std::vector<OpenView>& views) {
    for (const OpenView& view : views)
      if (auto placed = place(view); !placed) {
        undo();
        return fail(placed.error());
      }
    return std::move(attached_);
  }

 private:
  // The directory of a view; nullopt (and a note) where the container has none for it.
  Result<int> parent_of(const std::string& path) {
    const auto known = parents_.find(path);
    if (known != parents_.end()) return known->second.get();
    if (path == "run") (void)::mkdirat(root_, "run", 0755);
    UniqueFd parent = UMWELT_TRY(open_plain(root_, path, O_PATH | O_DIRECTORY));
    return parents_.emplace(path, std::move(parent)).first->second.get();
  }

  Result<void> place(const OpenView& view) {
    const std::size_t slash = view.view.path.rfind('/');
    const std::string name = view.view.path.substr(slash + 1);
    const bool made = view.view.path.starts_with("run/");
    const bool of_cgroup = view.view.path.starts_with("sys/fs/cgroup/");
    const bool optional = made || of_cgroup;
    const auto parent = parent_of(view.view.path.substr(0, slash));
    if (!parent) return no_place(view.view, parent.error(), optional);
    if (made && UMWELT_TRY(is_volume(*parent)))
      return no_place(view.view, {0, "in a directory of the host"}, true);
    if (made) (void)::mknodat(*parent, name.c_str(), S_IFREG | 0644, 0);
    auto target = open_plain(*parent, name, O_PATH);
    if (!target) return no_place(view.view, target.error(), optional);
    if (!optional) UMWELT_CHECK(check_kernels(*parent, view.view.path));
    // Who may make cgroups in there needs the kernel's numbers for them.
    if (of_cgroup && !is_readonly_cgroup(*parent))
      return no_place(view.view, {0, "not a cgroup, or a writable one"}, true);

    const struct statx ours = UMWELT_TRY(stat_cached(view.mount.get()));
    const std::uint64_t below = UMWELT_TRY(stat_cached(*parent)).stx_mnt_id;
    struct statx there = UMWELT_TRY(stat_cached(target->get()));
    bool replaces = false;
    for (unsigned i = 0; i < kMostStacked; ++i) {
      if (!UMWELT_TRY(propagation_.is_view(there.stx_mnt_id)) || !is_dead(target->get())) break;
      // The last one covers the machine's figures until ours does.
      replaces = UMWELT_TRY(propagation_.lies_on(there.stx_mnt_id, below));
      if (replaces) break;
      UMWELT_CHECK(detach(*parent, name));
      *target = UMWELT_TRY(open_plain(*parent, name, O_PATH));
      there = UMWELT_TRY(stat_cached(target->get()));
    }
    // Another record of this container, or another daemon, may have put its own over it.
    if (same_inode(ours, there) ||
        UMWELT_TRY(propagation_.covers(there.stx_mnt_id, view.file(ours)))) {
      ++attached_.present;
      return {};
    }
    // What covers a file (docker hides some with /dev/null) shows it less, and stays.
    if (view.view.directory ? !S_ISDIR(there.stx_mode) : !S_ISREG(there.stx_mode))
      return no_place(view.view, {0, "covered"}, true);
    const bool shared = UMWELT_TRY(propagation_.reaches_host(replaces ? below : there.stx_mnt_id));
    if (shared && of_cgroup) return no_place(view.view, {0, "shared with the host"}, true);
    if (shared)
      return fail(EPERM, "/" + view.view.path + " of the container is shared with the host");
    if (auto result = replaces ? replace(*parent, name, view.mount.get())
                               : attach_mount(view.mount.get(), target->get());
        !result)
      return fail(result.error().code, "mount the view of /" + view.view.path);
    mounted_.push_back({*parent, name});
    ++attached_.mounted;
    return {};
  }

  Result<void> no_place(const View& view, const Error& error, bool optional) {
    if (error.code == ELOOP && !optional)
      return fail(0, "root filesystem: /" + view.path + " is or is below a symbolic link");
    const bool absent = error.code == ENOENT || error.code == ENOTDIR;  // this kernel has none
    if (!absent && !optional) return fail(error);
    attached_.skipped.push_back(Error{error.code, view.path}.message());
    return {};
  }

  // Files that are made in a volume would stay there, and be its other users' as well.
  Result<bool> is_volume(int directory) const {
    const std::uint64_t mount = UMWELT_TRY(stat_cached(directory)).stx_mnt_id;
    if (mount == UMWELT_TRY(stat_cached(root_)).stx_mnt_id) return false;
    return propagation_.is_of_host(mount);
  }

  static Result<void> check_kernels(int parent, const std::string& path) {
    struct statfs status {};
    if (::fstatfs(parent, &status) != 0) return fail_errno("statfs /" + path);
    const auto expected = path.starts_with("proc/") ? PROC_SUPER_MAGIC : SYSFS_MAGIC;
    if (status.f_type != expected)
      return fail(EPERM, "/" + path + " is none of the kernel's files");
    return {};
  }

  static bool is_readonly_cgroup(int directory) {
    struct statfs status {};
    return ::fstatfs(directory, &status) == 0 && (status.f_flags & ST_RDONLY) != 0 &&
           (status.f_type == CGROUP_SUPER_MAGIC || status.f_type == CGROUP2_SUPER_MAGIC);
  }

  void undo() {
    for (; !mounted_.empty(); mounted_.pop_back())
      (void)detach(mounted_.back().parent, mounted_.back().name);
  }

  struct Mounted {
    int parent;  // of parents_
    std::string name;
  };
  const int root_;
  const Propagation& propagation_;
  std::map<std::string, UniqueFd> parents_;
  std::vector<Mounted> mounted_;
  Attached attached_;
};

Result<UniqueFd> open_root(const std::string& path) {
  open_how how{};
  how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
  how.resolve = RESOLVE_NO_SYMLINKS;
  const long fd = ::syscall(SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof(how));
  if (fd < 0) return fail_errno("open the container's root directory " + path);
  return UniqueFd(static_cast<int>(fd));
}

// `work` must own what it uses. `patience` as attach_views() has it.
Result<Attached> attach_in_thread(std::chrono::milliseconds patience,
                                  std::function<Result<Attached>()> work) {
  const auto attached = std::make_shared<Attached>();
  const auto done = in_thread(patience, [attached, work = std::move(work)]() -> Result<void> {
    *attached = UMWELT_TRY(work());
    return {};
  });
  UMWELT_CHECK(done);
  return std::move(*attached);
}

Result<Attached> attach_to(const container::Record& record,
                           const container::Directories& directories, const std::string& root) {
  const UniqueFd process = UMWELT_TRY(open_process(record.init_pid, record.init_starttime));
  Inside inside = UMWELT_TRY(open_inside(record.init_pid));
  const auto propagation = UMWELT_TRY(Propagation::open(
      "/proc/" + std::to_string(record.init_pid) + "/mountinfo", "/proc/self/mountinfo"));
  // What was opened belongs to that process if it is still there.
  UMWELT_TRY(open_process(record.init_pid, record.init_starttime));
  const auto views = UMWELT_TRY(open_views(record, directories));
  UMWELT_CHECK(enter(inside));
  if (!root.empty()) inside.root = UMWELT_TRY(open_root(root));
  return Attacher(inside.root.get(), propagation)(views);
}

}  // namespace

Result<std::vector<std::string>> read_choice(const std::string& id,
                                             const container::Directories& directories) {
  const auto text = UMWELT_TRY(read_optional_at(AT_FDCWD, choice_path(id, directories)));
  std::vector<std::string> groups;
  std::string_view rest = text ? std::string_view(*text) : std::string_view();
  while (auto line = next_line(rest))
    if (!line->empty()) groups.emplace_back(*line);
  return groups;
}

Result<void> keep_choice(const std::string& id, const std::vector<std::string>& groups,
                         const container::Directories& directories) {
  const std::string path = choice_path(id, directories);
  if (groups.empty()) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno("remove " + path);
    return {};
  }
  std::string text;
  for (const std::string& group : groups) text += group + "\n";
  return replace_file(path, text, 0600, /*durable=*/false);
}

Result<Attached> attach_views(const container::Record& record,
                              const container::Directories& directories, const std::string& root,
                              std::chrono::milliseconds patience) {
  return attach_in_thread(patience, [=] { return attach_to(record, directories, root); });
}

Result<Attached> attach_views_here(const container::Record& record,
                                   const container::Directories& directories,
                                   const std::string& root) {
  return attach_in_thread(kWithoutEnd, [=]() -> Result<Attached> {
    const auto propagation = UMWELT_TRY(Propagation::open("/proc/self/mountinfo", ""));
    const auto views = UMWELT_TRY(open_views(record, directories));
    const UniqueFd root_directory = UMWELT_TRY(open_root(root));
    return Attacher(root_directory.get(), propagation)(views);
  });
}

}  // namespace umwelt::launch
