// SPDX-License-Identifier: Apache-2.0
// What is kept beside the images: the files that clones are copied from, and what a crash left.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/file.h"
#include "vdisk/digest.h"
#include "vdisk/image.h"
#include "vdisk/image_file.h"
#include "vdisk/pool.h"
#include "vdisk/staging.h"
#include "vdisk/template.h"
#include "vdisk/tool.h"
#include "vdisk/tree_writer.h"

namespace umwelt::vdisk {
namespace {

constexpr std::string_view kUnfinished = ".new";  // of replace_file()
constexpr std::string_view kBaseEnding = ".ext4";

bool is_content_ending(std::string_view ending) {
  if (ending == ".erofs" || ending == ".d" || ending == ".d.lock") return true;
  // That of clone_base().
  if (!ending.starts_with('.') || !ending.ends_with(kBaseEnding)) return false;
  ending.remove_prefix(1);
  ending.remove_suffix(kBaseEnding.size());
  if (ending.ends_with("-nojournal")) ending.remove_suffix(10);
  return !ending.empty() &&
         std::all_of(ending.begin(), ending.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::string digest_of_content(const std::string& file) {
  constexpr std::string_view kPrefix = "sha256-";
  constexpr std::size_t kEnd = kPrefix.size() + 64;
  if (!file.starts_with(kPrefix) || file.size() < kEnd) return {};
  const std::string digest = "sha256:" + file.substr(kPrefix.size(), 64);
  return valid_digest(digest) && is_content_ending(file.substr(kEnd)) ? digest : std::string();
}

Result<UniqueFd> ImageStore::clone_base(const Image& image, std::uint64_t capacity_bytes, Class c,
                                        const ImportProgress& progress) const {
  const std::string name = fmt::format("sha256-{}.{}{}.ext4", image.digest.substr(7),
                                       capacity_bytes, c == Class::kScratch ? "-nojournal" : "");
  if (auto file = open_at(directory_.get(), name, O_RDONLY | O_NOFOLLOW)) return file;
  const MountedImage mounted = UMWELT_TRY(mount(image));
  // As a vdisk's: btrfs shares no blocks of a file that is copied on write with one that is not.
  UniqueFd file = UMWELT_TRY(create_unnamed(directory_.get(), capacity_bytes));
  const auto tick = [&] {
    struct stat status {};
    if (progress && ::fstat(file.get(), &status) == 0)
      progress({"making the file that clones are copied from",
                static_cast<std::uint64_t>(status.st_blocks) * 512, image.content_bytes});
  };
  const auto made =
      make_ext4(path_of(file.get()), capacity_bytes, c, path_of(mounted.mount.get()), tick);
  if (!made && made.error().code != EIO) return fail(made.error());
  if (!made)
    return fail(0, fmt::format("image {} does not fit in {}: {}", image.name,
                               amount(capacity_bytes), made.error().message()));
  if (::fsync(file.get()) != 0) return fail_errno("fsync a clone's base");
  if (auto linked = link_file(file.get(), directory_.get(), name);
      !linked && linked.error().code != EEXIST)
    return fail(linked.error());
  return file;
}

// The content that no name has: what a kill left between the two steps of an import or a removal.
// And what clones were copied from, a long time ago.
bool ImageStore::is_orphan(const std::string& name, const std::set<std::string>& digests) const {
  const std::string digest = digest_of_content(name);
  if (digest.empty()) return false;
  if (name.ends_with(kBaseEnding) && unused_for_long(directory_.get(), name)) return true;
  if (digests.contains(digest)) return false;
  const bool directory = name.ends_with(".d");
  const auto file = open_at(directory_.get(), directory ? name + ".lock" : name,
                            O_RDWR | O_NOFOLLOW | O_NONBLOCK);
  if (!file) return directory && file.error().code == ENOENT;
  return !is_locked_by_others(file->get());
}

Result<unsigned> ImageStore::remove_orphans() const {
  const ImageList all = UMWELT_TRY(list());
  // Whose content that would be is not known: nothing is touched.
  if (!all.damaged.empty()) return 0U;
  std::set<std::string> digests;
  for (const Image& image : all.images) digests.insert(image.digest);
  unsigned removed = 0;
  for (const std::string& name : UMWELT_TRY(read_names_at(directory_.get(), ".")))
    if ((name.ends_with(kUnfinished) || is_orphan(name, digests)) &&
        remove_below(directory_.get(), name))
      ++removed;
  return removed;
}

Result<unsigned> ImageStore::tidy() const {
  const UniqueFd held = UMWELT_TRY(open_at(directory_.get(), ".", O_RDONLY | O_DIRECTORY));
  if (::flock(held.get(), LOCK_EX | LOCK_NB) != 0)
    return errno == EWOULDBLOCK ? Result<unsigned>(0U) : fail_errno("lock the images");
  unsigned removed = 0;
  for (const std::string& name : UMWELT_TRY(read_names_at(directory_.get(), "."))) {
    if (!name.starts_with(kStaging)) continue;
    const auto staging = open_at(directory_.get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!staging || ::flock(staging->get(), LOCK_EX | LOCK_NB) != 0) continue;
    if (remove_below(directory_.get(), name)) ++removed;
  }
  return removed + UMWELT_TRY(remove_orphans());
}

}  // namespace umwelt::vdisk
