// SPDX-License-Identifier: Apache-2.0
#include "launch/views.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/file.h"
#include "launch/mounts.h"

namespace umwelt::launch {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCgroupDirectory = "sys/fs/cgroup";
constexpr const char* kSystemDirectory = "sys/devices/system";
constexpr const char* kHugepagesDirectory = "sys/kernel/mm/hugepages";

Result<void> list_files(const std::string& tree, const std::string& path, std::vector<View>& out) {
  std::error_code error;
  fs::directory_iterator it(tree + "/" + path, error);
  if (error == std::errc::no_such_file_or_directory) return {};
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    const std::string child = path + "/" + it->path().filename().string();
    if (it->is_directory(error))
      UMWELT_CHECK(list_files(tree, child, out));
    else
      out.push_back({child, false});
  }
  if (error) return fail(error.value(), "list " + tree + "/" + path);
  return {};
}

Result<void> list_directories(const std::string& tree, std::vector<View>& out) {
  std::error_code error;
  fs::directory_iterator it(tree + "/" + kSystemDirectory, error);
  if (error == std::errc::no_such_file_or_directory) return {};
  for (; !error && it != fs::directory_iterator(); it.increment(error))
    if (it->is_directory(error))
      out.push_back({std::string(kSystemDirectory) + "/" + it->path().filename().string(), true});
  if (error) return fail(error.value(), "list " + tree + "/" + kSystemDirectory);
  return {};
}

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
  if (view.path.starts_with("run/")) UMWELT_TRY(open_target(root, view.path, TargetKind::kFile));
  auto target = open_plain(root, view.path, O_PATH);
  if (!target && target.error().code == ENOENT) return {};  // this kernel has no such file
  if (!target) return fail(target.error());
  const UniqueFd mount = UMWELT_TRY(clone_view(tree, view));
  if (auto attached = attach_mount(mount.get(), target->get()); !attached)
    return fail(attached.error().code, "mount the view of /" + view.path);
  return {};
}

}  // namespace

Result<std::vector<View>> list_views(const std::string& tree) {
  std::vector<View> views;
  UMWELT_CHECK(list_files(tree, "proc", views));
  UMWELT_CHECK(list_files(tree, "run", views));
  UMWELT_CHECK(list_files(tree, kCgroupDirectory, views));
  UMWELT_CHECK(list_directories(tree, views));
  std::error_code error;
  if (fs::is_directory(tree + "/" + kHugepagesDirectory, error))
    views.push_back({kHugepagesDirectory, true});
  return views;
}

Result<UniqueFd> clone_view(const std::string& tree, const View& view) {
  UniqueFd mount = UMWELT_TRY(clone_mount(AT_FDCWD, tree + "/" + view.path, false));
  std::uint64_t attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  // Pressure files take triggers.
  if (!view.path.starts_with("proc/pressure/")) attributes |= MOUNT_ATTR_RDONLY;
  UMWELT_CHECK(restrict_mount(mount.get(), attributes, false));
  return mount;
}

Result<OfferedViews> find_views(const std::string& id, const container::Directories& directories) {
  OfferedViews found;
  for (const std::string& mount : directories.mounts()) {
    const std::string tree = mount + "/" + id;
    for (View& view : UMWELT_TRY(list_views(tree))) {
      auto& views = view.path.starts_with(kCgroupDirectory) ? found.in_cgroups : found.now;
      views.push_back({tree, std::move(view)});
    }
  }
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
