// SPDX-License-Identifier: Apache-2.0
#include "cgroup/directory.h"

#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "base/parse.h"

namespace umwelt::cgroup {
namespace {

unsigned count_components(std::string_view path) {
  unsigned count = 0;
  for (std::size_t i = 0; i < path.size(); ++i)
    if (path[i] != '/' && (i == 0 || path[i - 1] == '/')) ++count;
  return count;
}

// ENODEV: found, and then gone with its controller, which is being disabled (kernfs_fop_open() in
// fs/kernfs/file.c). Whether the cgroup itself is gone, check_alive() tells.
bool absent(const Error& error) {
  return error.code == ENOENT || error.code == ENOTDIR || error.code == ENODEV;
}

// A file of v2 that each cgroup but the root has together with the controller; "": none is known.
std::string_view companion_of(std::string_view controller) {
  static constexpr std::pair<std::string_view, std::string_view> kCompanions[] = {
      {"cpuset", "cpuset.cpus"},
      {"cpu", "cpu.weight"},
      {"io", "io.stat"},
      {"memory", "memory.current"},
      {"pids", "pids.current"}};
  for (const auto& [name, file] : kCompanions)
    if (name == controller) return file;
  return {};
}

bool has_word(std::string_view words, std::string_view wanted) {
  for (auto word = next_word(words); !word.empty(); word = next_word(words))
    if (word == wanted) return true;
  return false;
}

}  // namespace

Result<std::unique_ptr<const Directory>> Directory::open(const std::string& mount_point,
                                                         const std::string& path, bool v2) {
  std::unique_ptr<Directory> directory(new Directory());
  directory->mount_point_ = mount_point;
  directory->path_ = path;
  directory->v2_ = v2;
  directory->depth_ = count_components(path);
  directory->fd_ = UMWELT_TRY(open_at(AT_FDCWD, mount_point + path, O_RDONLY | O_DIRECTORY));
  auto alive = open_at(directory->fd(), v2 ? "cgroup.controllers" : "notify_on_release", O_RDONLY);
  if (!alive && alive.error().code != ENOENT) return fail(alive.error());
  if (alive) directory->alive_ = *std::move(alive);
  return std::unique_ptr<const Directory>(std::move(directory));
}

std::string Directory::relative(unsigned level, std::string_view file) const {
  std::string path;
  path.reserve(level * 3 + file.size());
  for (unsigned i = 0; i < level; ++i) path += "../";
  path += file;
  return path;
}

// "" where a cgroup has the same ones for ever (v1).
std::string Directory::controllers() const {
  if (!v2_ || !alive_) return "";
  std::string buffer;
  return std::string(trim(pread_record(alive_.get(), buffer).value_or("")));
}

bool Directory::known_absent(std::string_view file) const {
  {
    const std::lock_guard lock(absent_mutex_);
    if (!absent_.contains(file)) return false;
  }
  const std::string now = controllers();
  const std::lock_guard lock(absent_mutex_);
  return now == absent_with_;
}

// cgroup.controllers has a controller that is being enabled some 10 ms before its files are there,
// all at once: tasks are moved in between (cgroup_subtree_control_write() in
// kernel/cgroup/cgroup.c).
bool Directory::files_came(std::string_view file, std::string_view controllers) const {
  const std::string_view controller = file.substr(0, file.find('.'));
  if (!has_word(controllers, controller)) return true;
  const std::string companion(companion_of(controller));
  return !companion.empty() && open_at(fd_.get(), companion, O_RDONLY).has_value();
}

void Directory::note_absent(std::string_view file, std::string controllers) const {
  if (file.ends_with(".pressure")) return;  // comes and goes with cgroup.pressure
  const std::lock_guard lock(absent_mutex_);
  if (absent_with_ != controllers) absent_.clear();
  absent_with_ = std::move(controllers);
  absent_.emplace(file);
}

Result<UniqueFd> Directory::open_file(unsigned level, std::string_view file) const {
  if (level == 0 && known_absent(file)) return UniqueFd();
  const std::string path = relative(level, file);
  auto fd = open_at(fd_.get(), path, O_RDONLY);
  if (fd || !absent(fd.error())) return fd;
  if (level == 0 && alive_) {
    std::string with = controllers();
    const bool all_came = files_came(file, with);
    fd = open_at(fd_.get(), path, O_RDONLY);  // it may have come just now
    if (fd || !absent(fd.error())) return fd;
    if (all_came) note_absent(file, std::move(with));
  }
  return UniqueFd();
}

UniqueFd Directory::take(unsigned level, std::string_view file) const {
  Name name(level, file);
  const std::lock_guard lock(wanted_mutex_);
  if (const auto found = opened_.find(name); found != opened_.end()) {
    UniqueFd fd = std::move(found->second);
    opened_.erase(found);
    looked_for_.erase(name);  // another may want it, too
    return fd;
  }
  wanted_.insert(std::move(name));
  return {};
}

Result<void> Directory::open_wanted() const {
  std::set<Name> names;
  {
    const std::lock_guard lock(wanted_mutex_);
    names.swap(wanted_);
    looked_for_ = names;
    opened_.clear();
  }
  for (const Name& name : names) {
    UniqueFd fd = UMWELT_TRY(open_file(name.first, name.second));
    const std::lock_guard lock(wanted_mutex_);
    if (fd) opened_[name] = std::move(fd);
  }
  return {};
}

bool Directory::wants_more() const {
  const std::lock_guard lock(wanted_mutex_);
  return !std::includes(looked_for_.begin(), looked_for_.end(), wanted_.begin(), wanted_.end());
}

Result<std::optional<std::string_view>> Directory::read(unsigned level, std::string_view file,
                                                        std::string& buffer) const {
  const UniqueFd fd = UMWELT_TRY(open_file(level, file));
  if (!fd) return std::optional<std::string_view>();
  auto text = pread_record(fd.get(), buffer);
  if (text) return std::optional<std::string_view>(*text);
  // The controller was disabled, or the cgroup removed, just now; check_alive() tells.
  if (text.error().code == ENODEV) return std::optional<std::string_view>();
  return fail(text.error().code, "read " + path_ + " " + relative(level, file));
}

std::string Directory::existing_path(unsigned level, std::string_view file) const {
  if (level == 0 && known_absent(file)) return "";
  if (::faccessat(fd_.get(), relative(level, file).c_str(), F_OK, 0) != 0) return "";
  std::string_view path = path_;
  while (path.ends_with('/')) path.remove_suffix(1);
  for (unsigned i = 0; i < level; ++i) {
    path = path.substr(0, path.rfind('/'));
    while (path.ends_with('/')) path.remove_suffix(1);
  }
  return mount_point_ + std::string(path) + "/" + std::string(file);
}

Result<void> Directory::check_alive(std::string& buffer) const {
  if (!alive_) return {};
  auto text = pread_record(alive_.get(), buffer);
  if (!text) return fail(text.error().code, "cgroup " + path_);
  return {};
}

HeldFile::HeldFile(const Directory* directory, unsigned level, std::string name)
    : directory_(directory), level_(level), name_(std::move(name)) {}

void HeldFile::refresh() {
  if (directory_ && !fd_) fd_ = directory_->take(level_, name_);
}

Result<std::optional<std::string_view>> HeldFile::read(std::string& buffer) {
  if (!fd_) return std::optional<std::string_view>();
  auto text = pread_record(fd_.get(), buffer);
  if (text) return std::optional<std::string_view>(*text);
  if (text.error().code != ENODEV) return fail(text.error().code, "read " + name_);
  // Either the cgroup is gone, or on v2 its controller was disabled, maybe enabled again.
  UMWELT_CHECK(directory_->check_alive(buffer));
  fd_.reset();
  refresh();
  return std::optional<std::string_view>();
}

}  // namespace umwelt::cgroup
