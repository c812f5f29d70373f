// SPDX-License-Identifier: Apache-2.0
// How images come in and go out.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>
#include <set>

#include "base/file.h"
#include "base/parse.h"
#include "container/json_fields.h"
#include "vdisk/confined.h"
#include "vdisk/digest.h"
#include "vdisk/image.h"
#include "vdisk/image_file.h"
#include "vdisk/mount_api.h"
#include "vdisk/pack.h"
#include "vdisk/pool.h"
#include "vdisk/staging.h"
#include "vdisk/store.h"
#include "vdisk/tool.h"
#include "vdisk/tree_writer.h"

namespace umwelt::vdisk {
namespace {

using nlohmann::json;

constexpr char kRoot[] = "rootfs", kImage[] = "image";
constexpr std::uint64_t kStepBytes = 256U << 10;  // of the archive, between two signs of life

// All times are before it, so it changes nothing but the time of the image itself: the same content
// gives the same file.
constexpr char kSourceDate[] = "SOURCE_DATE_EPOCH=4102444800";

Result<UniqueFd> make_directory(int parent, const char* name) {
  if (::mkdirat(parent, name, 0755) != 0) return fail_errno("mkdir");
  return open_at(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

// What imports leave free for the vdisks beside them; without it containers would be stopped.
Result<std::uint64_t> reserve_of(int directory, const Store* vdisks) {
  struct statvfs status {};
  if (::fstatvfs(directory, &status) != 0) return fail_errno("statvfs");
  const auto reserve = std::min<std::uint64_t>(status.f_blocks * status.f_frsize / 20, 1ULL << 30);
  struct stat here {
  }, there{};
  if (vdisks == nullptr || ::fstat(directory, &here) != 0 ||
      ::fstat(vdisks->directory(), &there) != 0 || here.st_dev != there.st_dev)
    return reserve;
  const Sums sums = UMWELT_TRY(vdisks->sums());
  return std::max(reserve, saturating_add(sums.critical_bytes, TreeWriter::kSpaceCheckBytes));
}

ArchiveProgress steps(const Confined& confined, const std::string& what) {
  return
      [&confined, what, next = std::uint64_t{0}](std::uint64_t done, std::uint64_t total) mutable {
        if (done < next) return;
        next = done + kStepBytes;
        confined.tell({{"what", what}, {"done_bytes", done}, {"total_bytes", total}});
      };
}

json unpacked(const char* root, const TreeWriter& writer, const ImageConfig& config) {
  return {{"root", root},
          {"content_bytes", writer.content_bytes()},
          {"entries", writer.entries()},
          {"config", to_json(config)}};
}

// From the layers that `layout` holds.
Result<json> unpack_layout(int layout, const Confined& confined, std::uint64_t reserve) {
  const OciImage image = UMWELT_TRY(open_oci_layout(layout));
  const UniqueFd root = UMWELT_TRY(make_directory(confined.directory, kImage));
  TreeWriter writer = UMWELT_TRY(TreeWriter::open(root.get(), reserve));
  for (std::size_t i = 0; i < image.layers.size(); ++i) {
    writer.begin_layer();
    const std::string what = fmt::format("unpacking layer {}/{}", i + 1, image.layers.size());
    UMWELT_CHECK(unpack(image.layers[i].get(), writer, steps(confined, what)));
  }
  UMWELT_CHECK(writer.finish());
  return unpacked(kImage, writer, image.config);
}

Result<json> unpack_archive(const Confined& confined, std::uint64_t reserve) {
  const UniqueFd root = UMWELT_TRY(make_directory(confined.directory, kRoot));
  TreeWriter writer = UMWELT_TRY(TreeWriter::open(root.get(), reserve));
  UMWELT_CHECK(unpack(confined.source, writer, steps(confined, "unpacking")));
  if (writer.entries() == 0) return fail(0, "the archive is empty");
  UMWELT_CHECK(writer.finish());
  if (is_oci_layout(root.get())) return unpack_layout(root.get(), confined, reserve);
  return unpacked(kRoot, writer, {});
}

struct Content {
  UniqueFd root;  // of the unpacked tree, or the directory that was given
  std::uint64_t content_bytes = 0, entries = 0;
  ImageConfig config;
};

Result<Content> parse_unpacked(const json& object, const Staging& staging) try {
  Content content;
  const bool image = object.at("root") == kImage;
  content.root = UMWELT_TRY(
      open_at(staging.fd(), image ? kImage : kRoot, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  content.config = UMWELT_TRY(config_from_json(object.at("config")));
  if (!container::read_field(object, "content_bytes", content.content_bytes) ||
      !container::read_field(object, "entries", content.entries))
    return fail(EBADMSG, "read what was unpacked");
  return content;
} catch (const json::exception&) {
  return fail(EBADMSG, "read what was unpacked");
}

// `source` is an archive or an OCI layout. Nobody knows who made it.
Result<Content> unpack_confined(int source, const Staging& staging, std::uint64_t reserve,
                                const ImportProgress& progress) {
  const auto work = [&](const Confined& confined) {
    return is_oci_layout(confined.source) ? unpack_layout(confined.source, confined, reserve)
                                          : unpack_archive(confined, reserve);
  };
  const auto told = [&](const json& message) {
    ImportStep step;
    if (!progress || !message.value("what", json()).is_string()) return;
    step.what = message.at("what").get<std::string>();
    if (container::read_field(message, "done_bytes", step.done_bytes) &&
        container::read_field(message, "total_bytes", step.total_bytes))
      progress(step);
  };
  const json result = UMWELT_TRY(run_confined(staging.fd(), source, work, told));
  return parse_unpacked(result, staging);
}

// Of a directory that somebody may change while it is read, a container its root: no link on the
// way to a file is followed, wherever it leads.
Result<UniqueFd> clone_without_links(int directory) {
  constexpr unsigned kWhole = AT_EMPTY_PATH | AT_RECURSIVE;
  UniqueFd clone(::open_tree(directory, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | kWhole));
  if (!clone && errno == EINVAL)
    return fail(0, "it lies on a mount of another namespace: pipe an archive of it in");
  if (!clone) return fail_errno("open_tree");
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSYMFOLLOW;
  attributes.propagation = MS_PRIVATE;
  if (::mount_setattr(clone.get(), "", kWhole, &attributes, sizeof attributes) != 0)
    return fail_errno("mount_setattr");
  return clone;
}

struct Totals {
  std::uint64_t bytes = 0, entries = 0;
  std::set<std::pair<dev_t, ino_t>> links;  // seen, of files with several names
};
Result<void> add_up(int directory, const std::string& name, Totals& totals, int depth) {
  struct stat status {};
  if (::fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0)
    return fail_errno("stat " + name);
  ++totals.entries;
  if (S_ISREG(status.st_mode) &&
      (status.st_nlink == 1 || totals.links.insert({status.st_dev, status.st_ino}).second))
    totals.bytes = saturating_add(totals.bytes, static_cast<std::uint64_t>(status.st_size));
  if (!S_ISDIR(status.st_mode)) return {};
  if (depth > 1000) return fail(0, "the directory is nested too deep");
  const UniqueFd fd = UMWELT_TRY(open_at(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  for (const std::string& child : UMWELT_TRY(read_names(fd.get())))
    UMWELT_CHECK(add_up(fd.get(), child, totals, depth + 1));
  return {};
}

Result<void> check_room(int directory, std::uint64_t bytes, std::uint64_t reserve) {
  struct statvfs status {};
  if (::fstatvfs(directory, &status) != 0) return fail_errno("statvfs");
  const std::uint64_t free = status.f_bavail * status.f_frsize;
  if (saturating_add(bytes, reserve) <= free) return {};
  return fail(0, fmt::format("the image needs {} but only {} are free, of which {} must stay free",
                             amount(bytes), amount(free), amount(reserve)));
}

// What mkfs.erofs makes of the tree at the path `root`, in an unnamed file.
Result<UniqueFd> make_erofs(int directory, const std::string& root, std::uint64_t content_bytes,
                            const ImportProgress& progress) {
  UniqueFd file = UMWELT_TRY(open_at(directory, ".", O_TMPFILE | O_RDWR, 0600));
  const auto tick = [&] {
    struct stat status {};
    if (progress && ::fstat(file.get(), &status) == 0)
      progress({"writing", static_cast<std::uint64_t>(status.st_size), content_bytes});
  };
  UMWELT_TRY(check_tool({"mkfs.erofs", "--quiet", "-U", "00000000-0000-0000-0000-000000000000",
                         path_of(file.get()), root + "/"},
                        {kSourceDate}, tick));
  if (::fsync(file.get()) != 0) return fail_errno("fsync an image");
  return file;
}

// From the programs that this thread runs, which ends soon: trusted.overlay.* would be orders to
// the overlay on the image. Only who has the capability sees them (xattr(7)).
Result<void> hide_trusted_attributes() {
  if (::prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN) != 0) return fail_errno("drop CAP_SYS_ADMIN");
  return {};
}

bool has_erofs() {
  const UniqueFd context(::fsopen("erofs", FSOPEN_CLOEXEC));
  return context && find_tool("mkfs.erofs");
}

}  // namespace

// False: there is room for it. What was stored but damaged has been removed, for the caller has it
// anew.
Result<bool> ImageStore::is_stored(const Image& image) const {
  if (::faccessat(directory_.get(), content_name(image).c_str(), F_OK, AT_SYMLINK_NOFOLLOW) != 0)
    return errno == ENOENT ? Result<bool>(false) : fail_errno("look for image " + image.name);
  const auto verified = verify(image);
  if (verified) return true;
  if (const int code = verified.error().code; code != 0 && !proves_damage(code))
    return fail(verified.error());
  if (const auto lock = lock_content(image); !lock) {
    std::string name = image.digest;
    const ImageList all = UMWELT_TRY(list());
    for (const Image& other : all.images)
      if (other.digest == image.digest) name = other.name;
    return fail(0, fmt::format("it is the same as image {}, which is damaged and in use: stop the "
                               "containers that use that one, then import this one again",
                               name));
  }
  UMWELT_CHECK(remove_content(image.digest));
  return false;
}

Result<void> ImageStore::publish(Image& image, int file) const {
  struct stat status {};
  if (::fstat(file, &status) != 0) return fail_errno("fstat an image");
  image.stored_bytes = static_cast<std::uint64_t>(status.st_size);
  image.digest = "sha256:" + UMWELT_TRY(sha256_of(file));
  const std::string description = UMWELT_TRY(describe(image));
  const UniqueFd held = UMWELT_TRY(lock_store());
  if (find(image.name)) return fail(EEXIST, "image " + image.name);
  if (!UMWELT_TRY(is_stored(image)))
    UMWELT_CHECK(link_file(file, directory_.get(), content_name(image)));
  return write(image.name, description);
}

Result<void> ImageStore::publish_directory(Image& image, int staging,
                                           const std::string& name) const {
  const UniqueFd root = UMWELT_TRY(open_at(staging, name, O_RDONLY | O_DIRECTORY));
  image.form = ImageForm::kDirectory;
  image.stored_bytes = image.content_bytes;
  image.digest = "sha256:" + UMWELT_TRY(sum_of_tree(root.get()));
  const std::string description = UMWELT_TRY(describe(image));
  if (::syncfs(root.get()) != 0) return fail_errno("syncfs");
  const UniqueFd held = UMWELT_TRY(lock_store());
  if (find(image.name)) return fail(EEXIST, "image " + image.name);
  const bool stored = UMWELT_TRY(is_stored(image));
  const std::string target = content_name(image);
  const UniqueFd lock =
      UMWELT_TRY(open_at(directory_.get(), target + ".lock", O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (!stored &&
      ::renameat2(staging, name.c_str(), directory_.get(), target.c_str(), RENAME_NOREPLACE) != 0)
    return fail_errno("store image " + image.name);
  return write(image.name, description);
}

Result<Image> ImageStore::import(const std::string& source, const std::string& name,
                                 const ImportProgress& progress, int standard_in,
                                 const Store* vdisks) const {
  if (!valid_image_name(name))
    return fail(0, fmt::format("'{}' is no name of an image: letters, digits, '_', '.', ':' and "
                               "'-', at most {}, beginning with a letter or digit",
                               name.substr(0, 80), 128));
  UMWELT_TRY(tidy());
  if (find(name)) return fail(EEXIST, "image " + name);
  UniqueFd input;
  struct stat status {};
  if (source != "-") {
    const UniqueFd found = UMWELT_TRY(open_at(AT_FDCWD, source, O_PATH));
    if (::fstat(found.get(), &status) != 0) return fail_errno("fstat " + source);
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode) && !S_ISFIFO(status.st_mode))
      return fail(0, "neither a directory nor an archive");
    // Of a FIFO this waits until somebody writes to it.
    auto opened = open_at(AT_FDCWD, path_of(found.get()), O_RDONLY);
    if (!opened) return fail(opened.error().code, "open " + source);
    input = *std::move(opened);
  }
  UniqueFd held = UMWELT_TRY(lock_store());  // tidy() removes what is not locked
  const Staging staging = UMWELT_TRY(Staging::make(directory_.get(), path_));
  held.reset();
  const std::uint64_t reserve = UMWELT_TRY(reserve_of(directory_.get(), vdisks));
  const bool tree = source != "-" && S_ISDIR(status.st_mode) && !is_oci_layout(input.get());
  Content content;
  if (tree) {
    Totals sums;
    content.root = UMWELT_TRY(clone_without_links(input.get()));
    UMWELT_CHECK(add_up(content.root.get(), ".", sums, 0));
    content.content_bytes = sums.bytes;
    content.entries = sums.entries;
  } else {
    content = UMWELT_TRY(
        unpack_confined(source == "-" ? standard_in : input.get(), staging, reserve, progress));
  }
  Image image;
  image.name = name;
  image.source = source;
  image.created_s = std::time(nullptr);
  image.entries = content.entries;
  image.content_bytes = content.content_bytes;
  image.config = std::move(content.config);
  // Holes are written out as zeros.
  Totals apparent;
  UMWELT_CHECK(add_up(content.root.get(), ".", apparent, 0));
  UMWELT_CHECK(check_room(directory_.get(), apparent.bytes, reserve));
  if (has_erofs()) {
    UniqueFd file;
    const auto make = [&](const std::string& root) -> Result<void> {
      file = UMWELT_TRY(make_erofs(directory_.get(), root, apparent.bytes, progress));
      return {};
    };
    // mkfs.erofs looks for the path of what it reads, and a mount in no namespace has none.
    const auto make_of_mount = [&]() -> Result<void> {
      UMWELT_CHECK(attach_mount(content.root.get(), AT_FDCWD, staging.path()));
      UMWELT_CHECK(hide_trusted_attributes());
      return make(staging.path());
    };
    UMWELT_CHECK(tree ? in_private_mounts(make_of_mount) : make(path_of(content.root.get())));
    UMWELT_CHECK(publish(image, file.get()));
    return image;
  }
  if (tree) {
    // A copy of its own, since the image must not change with it.
    UniqueFd archive = UMWELT_TRY(open_at(directory_.get(), ".", O_TMPFILE | O_RDWR, 0600));
    UMWELT_CHECK(pack(content.root.get(), archive.get()));
    if (::lseek(archive.get(), 0, SEEK_SET) != 0) return fail_errno("lseek");
    UMWELT_TRY(unpack_confined(archive.get(), staging, reserve, progress));
  }
  const bool layers = ::faccessat(staging.fd(), kImage, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
  UMWELT_CHECK(publish_directory(image, staging.fd(), layers ? kImage : kRoot));
  return image;
}

Result<void> ImageStore::export_to(const Image& image, int file,
                                   const ImportProgress& progress) const {
  const MountedImage mounted = UMWELT_TRY(mount(image));
  const UniqueFd root = UMWELT_TRY(open_at(mounted.mount.get(), ".", O_RDONLY | O_DIRECTORY));
  return pack(root.get(), file, [&](std::uint64_t done, std::uint64_t) {
    if (progress) progress({"writing", done, image.content_bytes});
  });
}

}  // namespace umwelt::vdisk
