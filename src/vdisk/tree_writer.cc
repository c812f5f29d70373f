// SPDX-License-Identifier: Apache-2.0
#include "vdisk/tree_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"

namespace umwelt::vdisk {
namespace {

using Type = TreeEntry::Type;

constexpr std::uint64_t kEntriesPerCheck = 256;
constexpr std::uint64_t kNoteBytes = 64;  // of a path in memory, beside its letters
constexpr std::string_view kWhiteout = ".wh.", kOpaque = ".wh..wh..opq";

// Control characters of a hostile name must not reach a terminal.
std::string shown(const std::string& path) {
  std::string text = path.substr(0, 200);
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }, '?');
  return text;
}

tl::unexpected<Error> refuse(const std::string& path, std::string_view why) {
  return fail(0, fmt::format("archive entry '{}' {}", shown(path), why));
}

tl::unexpected<Error> failed(const std::string& path) {
  const int code = errno;
  return fail(code, fmt::format("unpack '{}'", shown(path)));
}

std::string join_parts(const std::vector<std::string>& parts, std::size_t count) {
  std::string path;
  for (std::size_t i = 0; i < count; ++i) path += (i == 0 ? "" : "/") + parts[i];
  return path;
}

// Extended attributes that mean something in a container and give it no power over the host:
// trusted.overlay.* would be overlayfs's own orders.
bool allowed_xattr(const std::string& name) {
  return name.starts_with("user.") || name == "security.capability" ||
         name == "system.posix_acl_access" || name == "system.posix_acl_default";
}

Result<void> apply_attributes(int fd, const TreeEntry& entry) {
  if (::fchown(fd, entry.uid, entry.gid) != 0) return failed(entry.path);
  if (::fchmod(fd, entry.mode & 07777) != 0) return failed(entry.path);
  for (const auto& [name, value] : entry.xattrs)
    if (allowed_xattr(name) && ::fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) != 0)
      return fail(errno, fmt::format("set {} of '{}'", shown(name), shown(entry.path)));
  return {};
}

}  // namespace

Result<std::vector<std::string>> split_path(const std::string& path) {
  if (path.starts_with('/')) return refuse(path, "has an absolute path");
  if (path.size() > TreeWriter::kMaxPathBytes) return refuse(path, "has too long a path");
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin < path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    begin = end + 1;
    if (part.empty() || part == ".") continue;
    if (part == "..") return refuse(path, "has '..' in its path");
    if (part.size() > NAME_MAX) return refuse(path, "has too long a name");
    parts.push_back(part);
  }
  if (parts.size() > TreeWriter::kMaxDepth) return refuse(path, "lies too deep");
  return parts;
}

Result<void> remove_below(int directory, const std::string& name) {
  if (::unlinkat(directory, name.c_str(), 0) == 0 || errno == ENOENT) return {};
  if (errno != EISDIR && errno != EPERM) return fail_errno("remove " + shown(name));
  {
    const UniqueFd below =
        UMWELT_TRY(open_at(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    for (const std::string& child : UMWELT_TRY(read_names_at(below.get(), ".")))
      UMWELT_CHECK(remove_below(below.get(), child));
  }
  if (::unlinkat(directory, name.c_str(), AT_REMOVEDIR) != 0)
    return fail_errno("remove " + shown(name));
  return {};
}

Result<TreeWriter> TreeWriter::open(int directory, std::uint64_t reserve_bytes) {
  UniqueFd root = UMWELT_TRY(open_at(directory, ".", O_RDONLY | O_DIRECTORY));
  char path[PATH_MAX];
  const ssize_t n =
      ::readlink(fmt::format("/proc/self/fd/{}", root.get()).c_str(), path, sizeof path);
  if (n < 0) return fail_errno("read the path of a directory");
  TreeWriter writer(std::move(root), std::string(path, static_cast<std::size_t>(n)), reserve_bytes);
  // What the archive doesn't name has no time of its own: the same archive gives the same tree.
  writer.note_time(".", timespec{});
  return writer;
}

Result<void> TreeWriter::check_space() {
  struct statvfs status {};
  if (::fstatvfs(root_.get(), &status) != 0) return fail_errno("statvfs");
  if (status.f_bavail * status.f_frsize < reserve_bytes_)
    return fail(ENOSPC, fmt::format("unpack ({} MiB must stay free)", reserve_bytes_ >> 20));
  // Without any left nobody on the host can make a file. btrfs counts none.
  if (const std::uint64_t least = status.f_files / 20; status.f_favail < least)
    return fail(ENOSPC, fmt::format("unpack ({} inodes must stay free)", least));
  unchecked_bytes_ = 0;
  return {};
}

// What is replaced or removed later is remembered all the same, so the disk's size bounds nothing.
void TreeWriter::note(const std::string& path) {
  if (this_layer_.insert(path).second) layer_bytes_ += kNoteBytes + path.size();
}

void TreeWriter::note_time(const std::string& directory, const timespec& time) {
  if (directory_times_.insert_or_assign(directory, time).second)
    times_bytes_ += kNoteBytes + directory.size();
}

// Through symlinks a directory can lie deeper than its path tells; tools have to name it later.
Result<void> TreeWriter::check_depth(int directory, const std::string& path) const {
  char real[2 * PATH_MAX];
  const ssize_t n =
      ::readlink(fmt::format("/proc/self/fd/{}", directory).c_str(), real, sizeof real);
  if (n < 0) return refuse(path, "lies too deep");
  const std::string_view below(
      real + std::min(root_path_.size(), static_cast<std::size_t>(n)),
      static_cast<std::size_t>(n) - std::min(root_path_.size(), static_cast<std::size_t>(n)));
  if (below.size() > kMaxPathBytes - NAME_MAX ||
      static_cast<std::size_t>(std::count(below.begin(), below.end(), '/')) >= kMaxDepth)
    return refuse(path, "lies too deep");
  return {};
}

// Without `make`: ENOENT where it is not there. The descriptor stays ours.
Result<int> TreeWriter::open_parent(const std::vector<std::string>& parts, bool make) {
  const std::size_t depth = parts.empty() ? 0 : parts.size() - 1;
  const std::string wanted = join_parts(parts, depth);
  if (parent_ && parent_path_ == wanted) return parent_.get();
  UniqueFd directory;
  auto whole = open_in_root(root_.get(), wanted.empty() ? "." : wanted, O_PATH | O_DIRECTORY);
  if (whole) {
    directory = std::move(*whole);
  } else {
    if (whole.error().code != ENOENT || !make) {
      if (whole.error().code == ENOTDIR || whole.error().code == ELOOP)
        return refuse(join_parts(parts, parts.size()), "lies below something that is no directory");
      return fail(whole.error());
    }
    directory = UMWELT_TRY(open_at(root_.get(), ".", O_PATH | O_DIRECTORY));
    for (std::size_t i = 1; i <= depth; ++i) {
      const std::string path = join_parts(parts, i);
      auto next = open_in_root(root_.get(), path, O_PATH | O_DIRECTORY);
      if (!next && next.error().code == ENOENT) {
        if (::mkdirat(directory.get(), parts[i - 1].c_str(), 0755) != 0 && errno != EEXIST)
          return failed(path);
        note(path);
        note_time(path, timespec{});
        next = open_in_root(root_.get(), path, O_PATH | O_DIRECTORY);
      }
      if (!next) return refuse(path, "is a symbolic link to nowhere");
      directory = std::move(*next);
      UMWELT_CHECK(check_depth(directory.get(), path));
    }
  }
  UMWELT_CHECK(check_depth(directory.get(), wanted));
  parent_ = std::move(directory);
  parent_path_ = wanted;
  return parent_.get();
}

Result<void> TreeWriter::white_out(int parent, const std::string& directory,
                                   const std::string& name) {
  const std::string prefix = directory.empty() ? "" : directory + "/";
  const auto remove = [&](const std::string& victim) -> Result<void> {
    if (this_layer_.contains(prefix + victim)) return {};
    return remove_below(parent, victim);
  };
  Result<void> removed;
  if (name == kOpaque) {
    // What has come since the first time is of this layer, also where another directory has got
    // the inode number.
    struct stat status {};
    if (::fstat(parent, &status) != 0) return failed(prefix + name);
    if (!opaque_.insert(status.st_ino).second) return {};
    layer_bytes_ += kNoteBytes;
    for (const std::string& child : UMWELT_TRY(read_names_at(parent, "."))) {
      removed = remove(child);
      if (!removed) break;
    }
  } else if (!name.starts_with(".wh..wh.")) {
    const std::string victim = name.substr(kWhiteout.size());
    if (victim.empty() || victim == "." || victim == "..")
      return refuse(prefix + name, "is no whiteout");
    removed = remove(victim);
  }
  parent_.reset();  // it may be what was removed
  return removed;
}

// Makes room for the entry; `kept`: a directory stays a directory, with what is in it.
Result<void> TreeWriter::replace(int parent, const std::string& name, const TreeEntry& entry,
                                 bool& kept) {
  struct stat status {};
  kept = false;
  if (::fstatat(parent, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0)
    return errno == ENOENT ? Result<void>() : failed(entry.path);
  if (S_ISDIR(status.st_mode) && entry.type == Type::kDirectory) {
    kept = true;
    return {};
  }
  return remove_below(parent, name);
}

Result<void> TreeWriter::link(int parent, const std::string& name, const TreeEntry& entry) {
  std::string target = entry.target;
  target.erase(0, std::min(target.find_first_not_of('/'), target.size()));
  const auto parts = UMWELT_TRY(split_path(target));
  if (parts.empty()) return refuse(entry.path, "is a hard link to a directory");
  const std::string directory = join_parts(parts, parts.size() - 1);
  const auto from =
      open_in_root(root_.get(), directory.empty() ? "." : directory, O_PATH | O_DIRECTORY);
  struct stat status {};
  if (!from || ::fstatat(from->get(), parts.back().c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0)
    return refuse(entry.path,
                  fmt::format("is a hard link to '{}', which is not there", shown(entry.target)));
  if (S_ISDIR(status.st_mode)) return refuse(entry.path, "is a hard link to a directory");
  struct stat existing {};
  if (::fstatat(parent, name.c_str(), &existing, AT_SYMLINK_NOFOLLOW) == 0) {
    if (existing.st_ino == status.st_ino && existing.st_dev == status.st_dev) return {};
    UMWELT_CHECK(remove_below(parent, name));
  }
  if (::linkat(from->get(), parts.back().c_str(), parent, name.c_str(), 0) != 0)
    return failed(entry.path);
  return {};
}

Result<void> TreeWriter::make(int parent, const std::string& name, const TreeEntry& entry) {
  bool kept = false;
  UMWELT_CHECK(replace(parent, name, entry, kept));
  if (entry.type == Type::kDirectory) {
    if (!kept && ::mkdirat(parent, name.c_str(), 0700) != 0) return failed(entry.path);
    const UniqueFd directory =
        UMWELT_TRY(open_at(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    return apply_attributes(directory.get(), entry);
  }
  if (entry.type == Type::kSymlink) {
    if (entry.target.empty()) return refuse(entry.path, "is a symbolic link to nothing");
    if (::symlinkat(entry.target.c_str(), parent, name.c_str()) != 0) return failed(entry.path);
  } else {
    const mode_t type = entry.type == Type::kCharacter ? S_IFCHR
                        : entry.type == Type::kBlock   ? S_IFBLK
                                                       : S_IFIFO;
    if (::mknodat(parent, name.c_str(), type | 0600, entry.device) != 0) return failed(entry.path);
  }
  if (::fchownat(parent, name.c_str(), entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) != 0)
    return failed(entry.path);
  if (entry.type != Type::kSymlink && ::fchmodat(parent, name.c_str(), entry.mode & 07777, 0) != 0)
    return failed(entry.path);
  const timespec times[2] = {entry.mtime, entry.mtime};
  if (::utimensat(parent, name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) return failed(entry.path);
  return {};
}

Result<UniqueFd> TreeWriter::add(const TreeEntry& entry) {
  if (++entries_ > kMaxEntries) return refuse(entry.path, "is one too many");
  if (entry.size_bytes > kMaxFileBytes) return refuse(entry.path, "is larger than 1 TiB");
  const auto parts = UMWELT_TRY(split_path(entry.path));
  if (parts.empty()) {
    if (entry.type != Type::kDirectory) return refuse(entry.path, "is the root and no directory");
    UMWELT_CHECK(apply_attributes(root_.get(), entry));
    note_time(".", entry.mtime);
    return UniqueFd();
  }
  const std::string& name = parts.back();
  const std::string path = join_parts(parts, parts.size());
  const bool whiteout = name.starts_with(kWhiteout);
  const auto parent = open_parent(parts, !whiteout);
  if (!parent && whiteout && parent.error().code == ENOENT) return UniqueFd();
  if (!parent) return fail(parent.error());
  if (whiteout) {
    UMWELT_CHECK(white_out(*parent, join_parts(parts, parts.size() - 1), name));
    return UniqueFd();
  }
  note(path);
  if (layer_bytes_ + times_bytes_ > kMaxNotedBytes)
    return refuse(entry.path, "is one path too many to remember");
  if (entries_ % kEntriesPerCheck == 0) UMWELT_CHECK(check_space());
  if (entry.type == Type::kHardLink) {
    UMWELT_CHECK(link(*parent, name, entry));
    return UniqueFd();
  }
  if (entry.type == Type::kFile) {
    UMWELT_CHECK(remove_below(*parent, name));
    UniqueFd file(::openat(*parent, name.c_str(),
                           O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file) return failed(entry.path);
    return file;
  }
  UMWELT_CHECK(make(*parent, name, entry));
  if (entry.type == Type::kDirectory) note_time(path, entry.mtime);
  return UniqueFd();
}

Result<void> TreeWriter::write_at(int file, const TreeEntry& entry, const void* data,
                                  std::size_t size, std::uint64_t offset) {
  if (offset > entry.size_bytes || size > entry.size_bytes - offset)
    return refuse(entry.path, "holds more than its size");
  content_bytes_ += size;
  unchecked_bytes_ += size;
  if (unchecked_bytes_ >= kSpaceCheckBytes) UMWELT_CHECK(check_space());
  const char* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = ::pwrite(file, bytes, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed(entry.path);
    bytes += n;
    size -= static_cast<std::size_t>(n);
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<void> TreeWriter::finish_file(int file, const TreeEntry& entry) {
  if (::ftruncate(file, static_cast<off_t>(entry.size_bytes)) != 0) return failed(entry.path);
  UMWELT_CHECK(apply_attributes(file, entry));
  const timespec times[2] = {entry.mtime, entry.mtime};
  if (::futimens(file, times) != 0) return failed(entry.path);
  return {};
}

Result<void> TreeWriter::finish() {
  for (const auto& [path, mtime] : directory_times_) {
    // It may have become something else since.
    const auto directory =
        open_in_root(root_.get(), path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK);
    const timespec times[2] = {mtime, mtime};
    if (directory && ::futimens(directory->get(), times) != 0) return failed(path);
  }
  return {};
}

}  // namespace umwelt::vdisk
