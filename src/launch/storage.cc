// SPDX-License-Identifier: Apache-2.0
#include "launch/storage.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "base/file.h"
#include "base/parse.h"
#include "launch/filesystems.h"
#include "launch/mounts.h"
#include "vdisk/explain.h"
#include "vdisk/io_limits.h"
#include "vdisk/mount_api.h"
#include "vdisk/overlay.h"
#include "vdisk/paths.h"
#include "vdisk/settings.h"
#include "vdisk/tree_writer.h"

namespace umwelt::launch {
namespace {

tl::unexpected<Error> explained(const Error& error, const std::string& what) {
  return fail(vdisk::explain(error, what));
}

Result<UniqueFd> duplicate(int fd) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy) return fail_errno("duplicate a descriptor");
  return copy;
}

// Of a block device; none where they can't be had.
std::vector<std::uint64_t> read_counts(dev_t device) {
  std::vector<std::uint64_t> counts;
  const auto text =
      read_file(fmt::format("/sys/dev/block/{}:{}/stat", major(device), minor(device)));
  std::string_view rest = text ? trim(*text) : std::string_view();
  for (auto count = parse_u64(next_word(rest)); count; count = parse_u64(next_word(rest)))
    counts.push_back(*count);
  return counts;
}

// The upper layer of a container without a vdisk.
Result<UniqueFd> memory_layer(const Spec& spec) {
  UniqueFd memory = UMWELT_TRY(make_filesystem(
      "tmpfs", {{"mode", "0700"}, {"size", tmpfs_size(spec.limits.memory_bytes)}}, 0));
  for (const char* directory : {"upper", "work"})
    if (::mkdirat(memory.get(), directory, 0755) != 0) return fail_errno("make an overlay");
  return memory;
}

// Record::image_digest of an overlay that lies on the host's root or on --rootfs. One that was
// never used has none.
constexpr char kDirectory[] = "directory";

vdisk::Kind kind_of(const DiskSpec& disk) {
  return disk.mode == DiskMode::kClone ? vdisk::Kind::kClone : vdisk::Kind::kOverlay;
}

}  // namespace

Result<vdisk::Disk> Storage::existing_disk(const Spec& spec) const {
  const DiskSpec& wanted = *spec.disk;
  const std::string what = "vdisk " + wanted.name;
  auto entry = store_->find(wanted.name);
  if (!entry) return explained(entry.error(), what);
  if (!entry->record) return explained({EUCLEAN, {}}, what);
  const vdisk::Record& record = *entry->record;
  if (record.kind == vdisk::Kind::kVolume)
    return fail(0, fmt::format("{} is a volume: mount it with --volume", what));
  if (record.kind == vdisk::Kind::kClone && !spec.image.empty() && record.image != spec.image)
    return fail(
        0, fmt::format("{} is a clone of {}, not of image {}: leave --image away", what,
                       record.image.empty() ? "another one" : "image " + record.image, spec.image));
  if (record.kind == vdisk::Kind::kOverlay && !record.image.empty() && record.image != spec.image)
    return fail(0, fmt::format("{} belongs to image {}: give --image {}", what, record.image,
                               record.image));
  if (record.kind == vdisk::Kind::kOverlay && !record.image.empty() && image_ &&
      !record.image_digest.empty() && record.image_digest != image_->digest)
    return fail(0, fmt::format("{} lies on another content of image {}: import what it was made "
                               "with ({})",
                               what, record.image, record.image_digest));
  if (record.kind == vdisk::Kind::kOverlay && image_ && record.image_digest == kDirectory)
    return fail(0, what + " was used without an image: leave --image away");
  auto disk = store_->attach(wanted.name);
  if (!disk) return explained(disk.error(), what);
  return disk;
}

// Notes whose the vdisk is now, and what it lies on.
Result<void> Storage::bind(const Spec& spec) {
  return store_->update(disk_name_, [&](vdisk::Record& r) -> Result<void> {
    unbound_ = r;
    r.container = spec.id;
    if (r.kind == vdisk::Kind::kClone) return {};
    r.image = spec.image;
    r.image_digest = image_ ? image_->digest : kDirectory;
    return {};
  });
}

// What nothing was written to lies on nothing yet.
void Storage::unbind() {
  const auto written = read_names_at(disk_->mount(), "upper", 1);
  if (!written || !written->empty()) return;
  (void)store_->update(disk_name_, [&](vdisk::Record& r) -> Result<void> {
    r.container = unbound_->container;
    r.image = unbound_->image;
    r.image_digest = unbound_->image_digest;
    return {};
  });
}

Result<vdisk::Disk> Storage::new_disk(const Spec& spec, const vdisk::ImageStore& images) const {
  const DiskSpec& wanted = *spec.disk;
  vdisk::Record record;
  record.kind = kind_of(wanted);
  record.cls = wanted.cls;
  record.capacity_bytes = UMWELT_TRY(vdisk::Store::round_capacity(wanted.capacity_bytes));
  record.image = spec.image;
  record.image_digest = image_ ? image_->digest : kDirectory;
  record.container = spec.id;
  record.keep = wanted.keep;
  const std::string what = fmt::format("a vdisk of {}", vdisk::amount(record.capacity_bytes));
  auto disk = [&]() -> Result<vdisk::Disk> {
    if (wanted.mode == DiskMode::kOverlay) return store_->take(record);
    UMWELT_CHECK(store_->admit(record, image_->content_bytes));
    const UniqueFd base = UMWELT_TRY(images.clone_base(*image_, record.capacity_bytes, record.cls));
    return store_->make_clone(record, base.get(), {});
  }();
  if (!disk) return explained(disk.error(), what);
  return disk;
}

Result<void> Storage::open_disk(const Spec& spec, const vdisk::ImageStore& images) {
  if (spec.disk->mode == DiskMode::kClone && !image_ && spec.disk->name.empty())
    return fail(0, "--disk-mode clone needs an image to clone: give --image");
  if (!spec.disk->name.empty()) {
    disk_ = UMWELT_TRY(existing_disk(spec));
    disk_name_ = spec.disk->name;
    return {};
  }
  disk_ = UMWELT_TRY(new_disk(spec, images));
  made_ = true;
  return {};
}

Result<void> Storage::make_root(const Spec& spec) {
  if (disk_ && disk_->record().kind == vdisk::Kind::kClone) {
    root_ = UMWELT_TRY(duplicate(disk_->mount()));
    return {};
  }
  UniqueFd memory, lower;
  if (!disk_) memory = UMWELT_TRY(memory_layer(spec));
  int lower_fd = -1;
  if (mounted_image_) {
    lower_fd = mounted_image_->mount.get();
  } else {
    lower = UMWELT_TRY(clone_mount(AT_FDCWD, spec.rootfs.empty() ? "/" : spec.rootfs, false));
    lower_fd = lower.get();
  }
  const bool is_volatile = disk_ && disk_->record().cls == vdisk::Class::kScratch;
  // What a volatile overlay leaves there forbids the next one. A filesystem that was not unmounted
  // has been emptied by now.
  if (is_volatile) UMWELT_CHECK(vdisk::remove_below(disk_->mount(), "work/work"));
  auto mounted = vdisk::mount_overlay(
      {.lowers = {lower_fd},
       .disk = disk_ ? disk_->mount() : memory.get(),
       .is_volatile = is_volatile,
       .name = disk_ ? "umwelt-" + disk_->record().id.substr(0, 12) : "umwelt"});
  if (!mounted) return explained(mounted.error(), "the root filesystem");
  root_ = std::move(*mounted);
  return {};
}

Result<void> Storage::open_volumes(const Spec& spec) {
  volumes_.resize(spec.mounts.size());
  for (std::size_t i = 0; i < spec.mounts.size(); ++i) {
    const Mount& mount = spec.mounts[i];
    if (mount.type != MountType::kVolume) continue;
    const std::string what = "volume " + mount.source;
    const std::string name = std::string(vdisk::kVolumePrefix) + mount.source;
    // The same volume at two places of one container.
    const bool again = std::any_of(
        spec.mounts.begin(), spec.mounts.begin() + static_cast<std::ptrdiff_t>(i),
        [&](const Mount& m) { return m.type == MountType::kVolume && m.source == mount.source; });
    auto disk = again ? store_->join(name) : store_->attach(name);
    if (!disk) return explained(disk.error(), what);
    volumes_[i].root = UMWELT_TRY(vdisk::volume_root(*disk, mount.read_only));
    volumes_[i].disk = std::move(*disk);
  }
  return {};
}

Result<Storage> Storage::open(const Spec& spec, const container::Directories& directories) {
  Storage storage;
  bool volumes = false;
  for (const Mount& mount : spec.mounts) volumes |= mount.type == MountType::kVolume;
  if (!spec.disk && spec.image.empty() && !volumes) return storage;
  const vdisk::ImageStore images =
      UMWELT_TRY(vdisk::ImageStore::open(vdisk::images_directory(directories)));
  if (!spec.image.empty()) {
    auto image = images.find(spec.image);
    if (!image) return explained(image.error(), "image " + spec.image);
    storage.image_ = std::move(*image);
  }
  if (spec.disk || volumes) {
    const vdisk::Settings settings = UMWELT_TRY(vdisk::read_settings(directories.config));
    auto store = vdisk::Store::open(vdisk::vdisks_directory(directories),
                                    vdisk::templates_directory(directories), settings.policy);
    if (!store)
      return explained(store.error(), "the vdisks in " + vdisk::vdisks_directory(directories));
    storage.store_ = std::move(*store);
  }
  const bool clone = spec.disk && spec.disk->mode == DiskMode::kClone;
  if (storage.image_ && !clone) {
    auto mounted = images.mount(*storage.image_);
    if (!mounted) return explained(mounted.error(), "image " + spec.image);
    storage.mounted_image_ = std::move(*mounted);
  }
  if (spec.disk) UMWELT_CHECK(storage.open_disk(spec, images));
  if (spec.disk || storage.image_) UMWELT_CHECK(storage.make_root(spec));
  if (volumes) UMWELT_CHECK(storage.open_volumes(spec));
  if (storage.disk_ && !storage.made_) UMWELT_CHECK(storage.bind(spec));
  if (storage.disk_ && storage.disk_name_.empty()) {
    // The last step that can be seen from outside.
    const std::string name = spec.disk->keep ? spec.name : spec.id;
    if (auto published = storage.store_->publish(*storage.disk_, name); !published)
      return explained(published.error(), "vdisk " + name);
    storage.disk_name_ = name;
  }
  return storage;
}

void Storage::describe(container::Record& record) const {
  const auto grows = [](const vdisk::Disk& disk) {
    return disk.record().cls != vdisk::Class::kGuaranteed;
  };
  record.grows_on_host = disk_ && grows(*disk_);
  for (const Volume& volume : volumes_) record.grows_on_host |= volume.disk && grows(*volume.disk);
  if (!disk_) return;
  const dev_t device = disk_->loop().device();
  record.disk_capacity_bytes = disk_->record().capacity_bytes;
  record.disk = view::Disk{.major = major(device),
                           .minor = minor(device),
                           .name = fmt::format("loop{}", disk_->loop().number()),
                           .counts_before = read_counts(device)};
}

Result<void> Storage::apply_limits(const cgroup::Paths& paths) {
  for (Volume& volume : volumes_) {
    if (!volume.disk) continue;
    // Also without any: some may be set while it is in use. They may have changed since the volume
    // was attached, and who changes them does so in every container that is there by then.
    const auto applied = store_->refresh(*volume.disk, [&]() -> Result<void> {
      UMWELT_CHECK(volume.disk->apply_limits());
      const vdisk::IoLimits& limits = volume.disk->record().limits;
      if (!limits.any()) return {};
      return vdisk::apply_io_limits(volume.disk->loop().device(), limits, paths);
    });
    UMWELT_CHECK(applied);
  }
  return {};
}

void Storage::close() {
  root_.reset();
  volumes_.clear();
  disk_.reset();
  mounted_image_.reset();
  store_.reset();
}

void Storage::finish(bool started) {
  // A slow device would make the unmount wait for what is dirty.
  for (Volume& volume : volumes_)
    if (volume.disk) volume.disk->lift_limits();
  // Before the root is unmounted, which would write what is dirty.
  if (disk_ && made_ && !disk_name_.empty() && !(started && disk_->record().keep))
    store_->discard(*disk_, disk_name_, root_.get());
  if (disk_ && unbound_ && !started) unbind();
  close();
}

void remove_left_disk(const Launched& launched, const container::Directories& directories) {
  const Spec& spec = launched.spec;
  if (!spec.disk || !spec.disk->name.empty()) return;
  if (spec.disk->keep && launched.status != Status::kCreated) return;
  const std::string name = spec.disk->keep ? spec.name : spec.id;
  const auto store = vdisk::Store::open(vdisk::vdisks_directory(directories),
                                        vdisk::templates_directory(directories), {});
  if (!store) return;
  // One of the same name that was there before is somebody else's.
  const auto entry = store->find(name);
  if (!entry || !entry->record || entry->record->container != spec.id) return;
  if (auto disk = store->join(name))
    store->discard(*disk, name);
  else
    (void)store->remove(name);
}

}  // namespace umwelt::launch
