// SPDX-License-Identifier: Apache-2.0
// How images come in and go out.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <set>

#include "base/file.h"
#include "vdisk/digest.h"
#include "vdisk/image.h"
#include "vdisk/image_file.h"
#include "vdisk/pack.h"
#include "vdisk/pool.h"
#include "vdisk/tool.h"
#include "vdisk/tree_writer.h"

namespace umwelt::vdisk {
namespace {

constexpr char kRoot[] = "rootfs", kImage[] = "image";

// All times are before it, so it changes nothing but the time of the image itself: the same content
// gives the same file.
constexpr char kSourceDate[] = "SOURCE_DATE_EPOCH=4102444800";

// A directory for what is unpacked, of nobody else's concern; gone with the object.
class Staging {
 public:
  static Result<Staging> make(int directory, const std::string& path) {
    Staging staging;
    std::string name = path + "/" + std::string(kStaging) + "XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) return fail_errno("mkdtemp " + path);
    staging.name_ = name.substr(path.size() + 1);
    staging.parent_ = UMWELT_TRY(open_at(directory, ".", O_RDONLY | O_DIRECTORY));
    staging.fd_ = UMWELT_TRY(open_at(directory, staging.name_, O_RDONLY | O_DIRECTORY));
    if (::flock(staging.fd_.get(), LOCK_EX) != 0) return fail_errno("lock " + name);
    return staging;
  }
  Staging(Staging&& other) noexcept
      : parent_(std::move(other.parent_)),
        fd_(std::move(other.fd_)),
        name_(std::exchange(other.name_, {})) {}
  Staging& operator=(Staging&&) = delete;
  ~Staging() {
    if (parent_ && !name_.empty()) (void)remove_below(parent_.get(), name_);
  }

  int fd() const { return fd_.get(); }
  Result<UniqueFd> make_directory(const char* name) const {
    if (::mkdirat(fd_.get(), name, 0755) != 0) return fail_errno("mkdir");
    return open_at(fd_.get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  }

 private:
  Staging() = default;
  UniqueFd parent_, fd_;
  std::string name_;
};

// What imports leave free for the vdisks beside them.
Result<std::uint64_t> reserve_of(int directory) {
  struct statvfs status {};
  if (::fstatvfs(directory, &status) != 0) return fail_errno("statvfs");
  return std::min<std::uint64_t>(status.f_blocks * status.f_frsize / 20, 1ULL << 30);
}

struct Content {
  UniqueFd root;  // of the unpacked tree, or the directory that was given
  std::uint64_t content_bytes = 0, entries = 0;
  ImageConfig config;
};

ArchiveProgress steps(const ImportProgress& progress, std::string what) {
  if (!progress) return {};
  return [&progress, what = std::move(what)](std::uint64_t done, std::uint64_t total) {
    progress({what, done, total});
  };
}

Result<void> unpack_layers(const OciImage& image, TreeWriter& writer,
                           const ImportProgress& progress) {
  for (std::size_t i = 0; i < image.layers.size(); ++i) {
    writer.begin_layer();
    const std::string what = fmt::format("unpacking layer {}/{}", i + 1, image.layers.size());
    UMWELT_CHECK(unpack(image.layers[i].get(), writer, steps(progress, what)));
  }
  return {};
}

// From the layers that `layout` holds.
Result<Content> unpack_layout(int layout, const Staging& staging, std::uint64_t reserve,
                              const ImportProgress& progress) {
  OciImage image = UMWELT_TRY(open_oci_layout(layout));
  Content content;
  content.root = UMWELT_TRY(staging.make_directory(kImage));
  TreeWriter writer = UMWELT_TRY(TreeWriter::open(content.root.get(), reserve));
  UMWELT_CHECK(unpack_layers(image, writer, progress));
  UMWELT_CHECK(writer.finish());
  content.config = std::move(image.config);
  content.content_bytes = writer.content_bytes();
  content.entries = writer.entries();
  return content;
}

Result<Content> unpack_archive(int file, const Staging& staging, std::uint64_t reserve,
                               const ImportProgress& progress) {
  Content content;
  content.root = UMWELT_TRY(staging.make_directory(kRoot));
  TreeWriter writer = UMWELT_TRY(TreeWriter::open(content.root.get(), reserve));
  UMWELT_CHECK(unpack(file, writer, steps(progress, "unpacking")));
  UMWELT_CHECK(writer.finish());
  if (is_oci_layout(content.root.get()))
    return unpack_layout(content.root.get(), staging, reserve, progress);
  content.content_bytes = writer.content_bytes();
  content.entries = writer.entries();
  return content;
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
    totals.bytes += static_cast<std::uint64_t>(status.st_size);
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
  if (bytes + reserve <= free) return {};
  return fail(0, fmt::format("the image needs {} but only {} are free, of which {} must stay free",
                             amount(bytes), amount(free), amount(reserve)));
}

// What mkfs.erofs makes of the tree, in an unnamed file.
Result<UniqueFd> make_erofs(int directory, int root, std::uint64_t content_bytes,
                            const ImportProgress& progress) {
  UniqueFd file = UMWELT_TRY(open_at(directory, ".", O_TMPFILE | O_RDWR, 0600));
  const auto tick = [&] {
    struct stat status {};
    if (progress && ::fstat(file.get(), &status) == 0)
      progress({"writing", static_cast<std::uint64_t>(status.st_size), content_bytes});
  };
  UMWELT_TRY(check_tool({"mkfs.erofs", "--quiet", "-U", "00000000-0000-0000-0000-000000000000",
                         path_of(file.get()), path_of(root) + "/"},
                        {kSourceDate}, tick));
  if (::fsync(file.get()) != 0) return fail_errno("fsync an image");
  return file;
}

bool has_erofs() {
  const UniqueFd context(::fsopen("erofs", FSOPEN_CLOEXEC));
  return context && find_tool("mkfs.erofs");
}

}  // namespace

Result<void> ImageStore::publish(Image& image, int file) const {
  struct stat status {};
  if (::fstat(file, &status) != 0) return fail_errno("fstat an image");
  image.stored_bytes = static_cast<std::uint64_t>(status.st_size);
  const std::string sum = UMWELT_TRY(sha256_of(file));
  image.digest = "sha256:" + sum;
  const UniqueFd held = UMWELT_TRY(lock_store());
  if (find(image.name)) return fail(EEXIST, "image " + image.name);
  const std::string name = "sha256-" + sum + ".erofs";
  if (auto linked = link_file(file, directory_.get(), name); !linked) {
    if (linked.error().code != EEXIST) return fail(linked.error());
    UMWELT_CHECK(verify(image));
  }
  return write(image);
}

Result<void> ImageStore::publish_directory(Image& image, int staging,
                                           const std::string& name) const {
  const UniqueFd root = UMWELT_TRY(open_at(staging, name, O_RDONLY | O_DIRECTORY));
  const UniqueFd null = UMWELT_TRY(open_at(directory_.get(), ".", O_TMPFILE | O_RDWR, 0600));
  // The digest of the archive that export_to() would make.
  UMWELT_CHECK(pack(root.get(), null.get()));
  image.form = ImageForm::kDirectory;
  image.stored_bytes = image.content_bytes;
  const std::string sum = UMWELT_TRY(sha256_of(null.get()));
  image.digest = "sha256:" + sum;
  const UniqueFd held = UMWELT_TRY(lock_store());
  if (find(image.name)) return fail(EEXIST, "image " + image.name);
  const std::string target = "sha256-" + sum + ".d";
  const UniqueFd lock =
      UMWELT_TRY(open_at(directory_.get(), target + ".lock", O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (::renameat2(staging, name.c_str(), directory_.get(), target.c_str(), RENAME_NOREPLACE) != 0 &&
      errno != EEXIST)
    return fail_errno("store image " + image.name);
  return write(image);
}

Result<Image> ImageStore::import(const std::string& source, const std::string& name,
                                 const ImportProgress& progress, int standard_in) const {
  if (!valid_image_name(name))
    return fail(0, fmt::format("'{}' is no name of an image: letters, digits, '_', '.', ':' and "
                               "'-', at most {}, beginning with a letter or digit",
                               name.substr(0, 80), 128));
  if (find(name)) return fail(EEXIST, "image " + name);
  UMWELT_TRY(tidy());
  UniqueFd input;
  struct stat status {};
  if (source != "-") {
    input = UMWELT_TRY(open_at(AT_FDCWD, source, O_RDONLY | O_NONBLOCK));
    if (::fstat(input.get(), &status) != 0) return fail_errno("fstat " + source);
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode) && !S_ISFIFO(status.st_mode))
      return fail(0, fmt::format("{} is neither a directory nor an archive", source));
    // Only the open was not to wait.
    if (::fcntl(input.get(), F_SETFL, 0) != 0) return fail_errno("fcntl " + source);
  }
  UniqueFd held = UMWELT_TRY(lock_store());  // tidy() removes what is not locked
  const Staging staging = UMWELT_TRY(Staging::make(directory_.get(), path_));
  held.reset();
  const std::uint64_t reserve = UMWELT_TRY(reserve_of(directory_.get()));
  const bool directory = source != "-" && S_ISDIR(status.st_mode);
  Content content;
  if (directory && is_oci_layout(input.get())) {
    content = UMWELT_TRY(unpack_layout(input.get(), staging, reserve, progress));
  } else if (directory) {
    Totals sums;
    UMWELT_CHECK(add_up(input.get(), ".", sums, 0));
    content.root = std::move(input);
    content.content_bytes = sums.bytes;
    content.entries = sums.entries;
  } else {
    content = UMWELT_TRY(
        unpack_archive(source == "-" ? standard_in : input.get(), staging, reserve, progress));
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
    const UniqueFd file =
        UMWELT_TRY(make_erofs(directory_.get(), content.root.get(), apparent.bytes, progress));
    UMWELT_CHECK(publish(image, file.get()));
    return image;
  }
  if (directory && !is_oci_layout(content.root.get())) {
    // A copy of its own, since the image must not change with it.
    UniqueFd archive = UMWELT_TRY(open_at(directory_.get(), ".", O_TMPFILE | O_RDWR, 0600));
    UMWELT_CHECK(pack(content.root.get(), archive.get()));
    if (::lseek(archive.get(), 0, SEEK_SET) != 0) return fail_errno("lseek");
    UMWELT_TRY(unpack_archive(archive.get(), staging, reserve, progress));
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
