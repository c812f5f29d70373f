// SPDX-License-Identifier: Apache-2.0
#include "vdisk/image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "container/json_fields.h"
#include "vdisk/digest.h"
#include "vdisk/image_file.h"
#include "vdisk/mount_api.h"
#include "vdisk/record.h"
#include "vdisk/tree_writer.h"

namespace umwelt::vdisk {
namespace {

using nlohmann::json;

constexpr std::string_view kSuffix = ".json";
constexpr std::size_t kMaxNameLength = 128, kMaxJsonBytes = 4U << 20;
constexpr char kReadAheadKib[] = "1024";

// What is locked while the image is in use.
std::string lock_name(const Image& image) {
  return content_name(image) + (image.form == ImageForm::kErofs ? "" : ".lock");
}

// Not on a read-only filesystem.
bool is_writable(int file) { return (::fcntl(file, F_GETFL) & O_ACCMODE) == O_RDWR; }

}  // namespace

json to_json(const ImageConfig& config) {
  return {{"environment", config.environment},
          {"entrypoint", config.entrypoint},
          {"command", config.command},
          {"workdir", config.workdir},
          {"user", config.user}};
}

Result<ImageConfig> config_from_json(const json& object) try {
  ImageConfig config;
  object.at("environment").get_to(config.environment);
  object.at("entrypoint").get_to(config.entrypoint);
  object.at("command").get_to(config.command);
  object.at("workdir").get_to(config.workdir);
  object.at("user").get_to(config.user);
  return config;
} catch (const json::exception&) {
  return fail(EUCLEAN, "read how an image wants to be run");
}

json to_json(const Image& i) {
  return {{"name", i.name},
          {"digest", i.digest},
          {"form", i.form == ImageForm::kErofs ? "erofs" : "directory"},
          {"stored_bytes", i.stored_bytes},
          {"content_bytes", i.content_bytes},
          {"entries", i.entries},
          {"source", i.source},
          {"created_s", i.created_s},
          {"config", to_json(i.config)}};
}

Result<std::string> describe(const Image& image) {
  std::string text = to_json(image).dump(2, ' ', false, json::error_handler_t::replace) + "\n";
  if (text.size() > kMaxJsonBytes)
    return fail(0, fmt::format("what it says of how it wants to be run is longer than {} MiB",
                               kMaxJsonBytes >> 20));
  return text;
}

Result<Image> image_from_json(const json& object) try {
  Image i;
  i.name = object.at("name").get<std::string>();
  i.digest = object.at("digest").get<std::string>();
  const std::string form = object.at("form").get<std::string>();
  i.form = form == "erofs" ? ImageForm::kErofs : ImageForm::kDirectory;
  const bool numbers = container::read_field(object, "stored_bytes", i.stored_bytes) &&
                       container::read_field(object, "content_bytes", i.content_bytes) &&
                       container::read_field(object, "entries", i.entries) &&
                       container::read_field(object, "created_s", i.created_s);
  i.source = object.at("source").get<std::string>();
  i.config = UMWELT_TRY(config_from_json(object.at("config")));
  if (!numbers || !valid_image_name(i.name) || !valid_digest(i.digest) ||
      (form != "erofs" && form != "directory"))
    return fail(EUCLEAN, "read an image's description");
  return i;
} catch (const json::exception&) {
  return fail(EUCLEAN, "read an image's description");
}

bool valid_image_name(std::string_view name) {
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  return !name.empty() && name.size() <= kMaxNameLength && letter(name[0]) &&
         std::all_of(name.begin(), name.end(), [&](char c) {
           return letter(c) || c == '_' || c == '.' || c == ':' || c == '-';
         });
}

std::string image_name_of(const std::string& path) {
  std::string name = path;
  while (name.ends_with('/')) name.pop_back();
  name.erase(0, name.rfind('/') + 1);
  for (const std::string_view end :
       {".gz", ".tgz", ".xz", ".txz", ".zst", ".bz2", ".lz4", ".tar", ".oci"})
    if (name.size() > end.size() && name.ends_with(end)) name.resize(name.size() - end.size());
  return valid_image_name(name) ? name : std::string();
}

tl::unexpected<Error> damaged(const std::string& name, const std::string& why) {
  return fail(0, fmt::format("image {} is damaged ({}): remove it and import it again", name, why));
}

bool proves_damage(int code) {
  // EINVAL: of a filesystem that is none.
  for (const int proof :
       {ENOENT, ELOOP, EISDIR, ENOTDIR, ENXIO, EFBIG, EIO, EINVAL, EUCLEAN, EBADMSG})
    if (code == proof) return true;
  return false;
}

std::string content_name(const Image& image) {
  return "sha256-" + image.digest.substr(7) + (image.form == ImageForm::kErofs ? ".erofs" : ".d");
}

Result<ImageStore> ImageStore::open(const std::string& directory) {
  UMWELT_CHECK(make_directories(directory, 0700));
  UniqueFd fd = UMWELT_TRY(open_at(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY));
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return fail_errno("fstat " + directory);
  return ImageStore(std::move(fd), directory,
                    fmt::format("{:x}-{:x}", status.st_dev, status.st_ino));
}

Result<UniqueFd> ImageStore::lock_store() const {
  UniqueFd lock = UMWELT_TRY(open_at(directory_.get(), ".", O_RDONLY | O_DIRECTORY));
  while (::flock(lock.get(), LOCK_EX) != 0)
    if (errno != EINTR) return fail_errno("lock the images");
  return lock;
}

Result<void> ImageStore::write(const std::string& name, const std::string& description) const {
  UMWELT_CHECK(replace_file(path_ + "/" + name + std::string(kSuffix), description, 0600));
  // Else a power cut takes the names, also that of the content.
  if (::fsync(directory_.get()) != 0) return fail_errno("fsync the images");
  return {};
}

Result<ImageList> ImageStore::list() const {
  ImageList all;
  for (std::string& name : UMWELT_TRY(read_names_at(directory_.get(), "."))) {
    if (!name.ends_with(kSuffix)) continue;
    name.resize(name.size() - kSuffix.size());
    auto image = find(name);
    if (image)
      all.images.push_back(std::move(*image));
    else if (image.error().code == 0)
      all.damaged.push_back(name);
    else if (image.error().code != ENOENT)
      return fail(image.error());
  }
  std::sort(all.images.begin(), all.images.end(),
            [](const Image& a, const Image& b) { return a.name < b.name; });
  std::sort(all.damaged.begin(), all.damaged.end());
  return all;
}

Result<Image> ImageStore::find(const std::string& name) const {
  if (!valid_image_name(name)) return fail(ENOENT, "image " + name.substr(0, kMaxNameLength));
  const std::string file = name + std::string(kSuffix);
  const auto text = read_file_at(directory_.get(), file, kMaxJsonBytes);
  if (!text && (text.error().code == ENOENT || !proves_damage(text.error().code)))
    return fail(text.error().code, "image " + name);
  if (text)
    if (auto image = image_from_json(json::parse(*text, nullptr, false));
        image && image->name == name)
      return image;
  return damaged(name, path_ + "/" + file + " is no description of it");
}

// Without a descriptor: there is nothing that could be in use. EBUSY.
Result<UniqueFd> ImageStore::lock_content(const Image& image) const {
  auto file = open_at(directory_.get(), lock_name(image), O_RDWR | O_NOFOLLOW);
  if (!file && proves_damage(file.error().code)) return UniqueFd();
  if (!file) return fail(file.error());
  if (!lock_file(file->get())) return fail(EBUSY, "image " + image.name);
  return file;
}

Result<void> ImageStore::remove_content(const std::string& digest) const {
  for (const std::string& file : UMWELT_TRY(read_names_at(directory_.get(), ".")))
    if (digest_of_content(file) == digest) UMWELT_CHECK(remove_below(directory_.get(), file));
  return {};
}

Result<void> ImageStore::remove(const std::string& name) const {
  const UniqueFd held = UMWELT_TRY(lock_store());
  const auto image = find(name);
  if (!image && image.error().code == ENOENT) return fail(image.error());
  const ImageList all = UMWELT_TRY(list());
  const bool last = image && std::count_if(all.images.begin(), all.images.end(),
                                           [&](auto& i) { return i.digest == image->digest; }) == 1;
  UniqueFd lock;
  if (last) lock = UMWELT_TRY(lock_content(*image));
  if (::unlinkat(directory_.get(), (name + std::string(kSuffix)).c_str(), 0) != 0)
    return fail_errno("remove image " + name);
  // One that is damaged may have the same content.
  if (last && all.damaged.empty()) return remove_content(image->digest);
  if (!image) UMWELT_TRY(remove_orphans());
  return {};
}

Result<UniqueFd> ImageStore::open_content(const Image& image) const {
  auto file = open_at(directory_.get(), content_name(image), O_RDWR | O_NOFOLLOW | O_NONBLOCK);
  if (!file && file.error().code == EROFS)
    file = open_at(directory_.get(), content_name(image), O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  if (!file && file.error().code == ENOENT) return damaged(image.name, "its file is missing");
  if (!file && proves_damage(file.error().code)) return damaged(image.name, file.error().message());
  if (!file) return fail(file.error());
  struct stat status {};
  if (::fstat(file->get(), &status) != 0) return fail_errno("fstat an image");
  if (!S_ISREG(status.st_mode)) return damaged(image.name, "it is no regular file");
  if (static_cast<std::uint64_t>(status.st_size) != image.stored_bytes)
    return damaged(image.name,
                   fmt::format("{} bytes instead of {}", status.st_size, image.stored_bytes));
  return file;
}

Result<MountedImage> ImageStore::mount_erofs(const Image& image) const {
  constexpr int kTries = 200;  // while somebody else is about to attach or to let go
  MountedImage mounted;
  for (int attempt = 0; !mounted.loop; ++attempt) {
    mounted.lock = UMWELT_TRY(open_content(image));
    if (const auto number = read_loop_hint(mounted.lock.get()))
      mounted.loop = Loop::find(*number, mounted.lock.get());
    if (mounted.loop) break;
    const bool writable = is_writable(mounted.lock.get());
    const auto locked = lock_file(mounted.lock.get(), writable ? Lock::kAlone : Lock::kShared);
    if (!locked && locked.error().code != EBUSY) return fail(locked.error());
    if (locked) {
      if (!has_name(mounted.lock.get())) return fail(ENOENT, "image " + image.name);
      mounted.loop = UMWELT_TRY(Loop::attach(
          mounted.lock.get(), {.name = "umwelt/" + owner_ + "/image", .read_only = true}));
      // Without it the next one attaches a device of its own.
      if (writable) UMWELT_CHECK(write_loop_hint(mounted.lock.get(), mounted.loop->number()));
      (void)write_file_at(AT_FDCWD, mounted.loop->sysfs() + "/queue/read_ahead_kb", kReadAheadKib);
      break;
    }
    if (attempt == kTries) return fail(EBUSY, "image " + image.name);
    const timespec pause{0, 5'000'000};
    ::nanosleep(&pause, nullptr);
  }
  FsContext erofs = UMWELT_TRY(FsContext::open("erofs"));
  UMWELT_CHECK(erofs.set_string("source", mounted.loop->path()));
  UMWELT_CHECK(erofs.set_flag("ro"));
  auto mount = erofs.mount(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV);
  if (!mount && proves_damage(mount.error().code))
    return damaged(image.name, mount.error().message());
  if (!mount) return fail(mount.error());
  mounted.mount = std::move(*mount);
  return mounted;
}

Result<MountedImage> ImageStore::mount_directory(const Image& image) const {
  const std::string name = content_name(image);
  MountedImage mounted;
  mounted.lock = UMWELT_TRY(open_at(directory_.get(), lock_name(image), O_RDONLY | O_NOFOLLOW));
  if (auto locked = lock_file(mounted.lock.get(), Lock::kShared); !locked)
    return fail(locked.error().code, "image " + image.name);
  if (!has_name(mounted.lock.get())) return fail(ENOENT, "image " + image.name);
  mounted.mount = UMWELT_TRY(clone_mount(directory_.get(), name));
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV;
  if (::mount_setattr(mounted.mount.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0)
    return fail_errno("mount_setattr");
  return mounted;
}

Result<MountedImage> ImageStore::mount(const Image& image) const {
  return image.form == ImageForm::kErofs ? mount_erofs(image) : mount_directory(image);
}

bool ImageStore::in_use(const Image& image) const {
  const auto file = open_at(directory_.get(), lock_name(image), O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  return file && is_locked_by_others(file->get());
}

}  // namespace umwelt::vdisk
