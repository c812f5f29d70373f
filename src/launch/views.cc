// SPDX-License-Identifier: Apache-2.0
#include "launch/views.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/file.h"
#include "launch/mounts.h"
#include "launch/view_groups.h"

namespace umwelt::launch {
namespace {

Result<void> check_underlying(int proc, const View& view) {
  constexpr std::string_view kPrefix = "proc/";
  if (!view.path.starts_with(kPrefix)) return {};
  struct stat st {};
  const std::string name = view.path.substr(kPrefix.size());
  if (::fstatat(proc, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode))
    return fail(0, "root filesystem: its /" + view.path + " is a symbolic link; remove it");
  return {};
}

Result<void> mount_view(int root, const std::string& tree, const View& view) {
  const auto mount = clone_view(tree, view);
  if (!mount && mount.error().code == ENOENT) return {};  // the host has no such file
  if (!mount) return fail(mount.error());
  if (view.path.starts_with("run/")) UMWELT_TRY(open_target(root, view.path, TargetKind::kFile));
  auto target = open_plain(root, view.path, O_PATH);
  if (!target && target.error().code == ENOENT) return {};  // this kernel has no such file
  if (!target) return fail(target.error());
  if (auto attached = attach_mount(mount->get(), target->get()); !attached)
    return fail(attached.error().code, "mount the view of /" + view.path);
  return {};
}

}  // namespace

Result<UniqueFd> clone_view(const std::string& tree, const View& view) {
  UniqueFd mount = UMWELT_TRY(clone_mount(AT_FDCWD, tree + "/" + view.path, false));
  std::uint64_t attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  // Pressure files take triggers.
  if (!view.path.starts_with("proc/pressure/")) attributes |= MOUNT_ATTR_RDONLY;
  UMWELT_CHECK(restrict_mount(mount.get(), attributes, false));
  return mount;
}

std::vector<OfferedView> views_of(const std::string& id,
                                  const container::Directories& directories) {
  const auto mounts = directories.mounts();
  std::vector<OfferedView> found;
  for (const KnownView& known : known_views())
    found.push_back({mounts[static_cast<std::size_t>(known.connection)] + "/" + id,
                     {std::string(known.path), known.directory}});
  return found;
}

Result<void> mount_views(int root, int proc, const std::vector<OfferedView>& views) {
  for (const OfferedView& offered : views) {
    UMWELT_CHECK(check_underlying(proc, offered.view));
    UMWELT_CHECK(mount_view(root, offered.tree, offered.view));
  }
  return {};
}

}  // namespace umwelt::launch
