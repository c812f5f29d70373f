// SPDX-License-Identifier: Apache-2.0
#include "cli/storage.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/parse.h"
#include "cli/command_line.h"
#include "cli/containers.h"
#include "cli/options.h"
#include "vdisk/paths.h"
#include "vdisk/settings.h"

namespace umwelt::cli {

Result<vdisk::ImageStore> open_images(const Context& context) {
  return vdisk::ImageStore::open(vdisk::images_directory(context.directories));
}

Result<vdisk::Image> find_image(const vdisk::ImageStore& images, const std::string& name) {
  auto image = images.find(name);
  if (image || image.error().code != ENOENT) return image;
  std::vector<std::string> names;
  const vdisk::ImageList all = UMWELT_TRY(images.list());
  for (const vdisk::Image& i : all.images) names.push_back(i.name);
  const std::string meant = nearest(name, names);
  return fail(0, fmt::format("no such image: {}{}", printable(name, 80),
                             meant.empty() ? "; umwelt image ls lists them"
                                           : fmt::format("; did you mean {}?", meant)));
}

Result<vdisk::Store> open_vdisks(const Context& context) {
  const auto settings = UMWELT_TRY(vdisk::read_settings(context.directories.config));
  return vdisk::Store::open(vdisk::vdisks_directory(context.directories),
                            vdisk::templates_directory(context.directories), settings.policy);
}

Result<int> remove_each(const Operands& names, bool json,
                        const std::function<Result<void>(const std::string& name)>& remove) {
  nlohmann::json gone = nlohmann::json::array();
  const auto act = [&](const std::string& name) -> Result<void> {
    UMWELT_CHECK(remove(name));
    if (!json) return print(name + "\n");
    gone.push_back({{"name", name}});
    return {};
  };
  const int code = UMWELT_TRY(for_each_name(names, act));
  if (json) UMWELT_CHECK(print_json(gone));
  return code;
}

nlohmann::json usage_json(const vdisk::Usage& usage) {
  return {{"capacity_bytes", usage.capacity_bytes},
          {"usable_bytes", usage.usable_bytes},
          {"live_bytes", usage.live_bytes},
          {"allocated_bytes", usage.allocated_bytes},
          {"reclaimable_bytes", usage.reclaimable_bytes()},
          {"inodes", usage.inodes},
          {"used_inodes", usage.used_inodes}};
}

nlohmann::json vdisk_json(const vdisk::Store& store, const vdisk::Entry& entry) {
  nlohmann::json out = {{"name", entry.name}, {"in_use", entry.in_use}, {"usage", nullptr}};
  out["record"] = entry.record ? vdisk::to_json(*entry.record) : nlohmann::json();
  if (const auto usage = store.usage(entry.name)) out["usage"] = usage_json(*usage);
  if (entry.in_use)
    if (const auto disk = store.look(entry.name)) out["device"] = disk->loop().path();
  return out;
}

Result<std::uint64_t> parse_capacity(std::string_view text) {
  const auto bytes = parse_size(text);
  if (!bytes || *bytes < vdisk::kMinCapacityBytes || *bytes > vdisk::kMaxCapacityBytes)
    return fail(
        0, fmt::format("'{}' is not a capacity from 32m to 64t, such as 10g", printable(text, 60)));
  return *bytes;
}

Result<vdisk::Class> parse_disk_class(std::string_view text) {
  for (const auto c : {vdisk::Class::kThin, vdisk::Class::kGuaranteed, vdisk::Class::kScratch})
    if (text == vdisk::name_of(c)) return c;
  return fail(0, fmt::format("'{}' is not thin, guaranteed or scratch", printable(text, 60)));
}

Result<void> check_disk_name(const std::string& name) {
  if (parse_size(name))
    return fail_usage(fmt::format("'{}' is a capacity to run --disk: give the vdisk another name",
                                  printable(name, 60)));
  if (vdisk::valid_name(name)) return {};
  return fail_usage(
      fmt::format("'{}' is not a name of a vdisk: 1 to 64 letters, digits, '_', '.' and '-', of "
                  "which the first is a letter or digit",
                  printable(name, 60)));
}

namespace {

Result<launch::DiskMode> parse_disk_mode(std::string_view text) {
  if (text == "overlay") return launch::DiskMode::kOverlay;
  if (text == "clone") return launch::DiskMode::kClone;
  return fail(0, fmt::format("'{}' is not overlay or clone", printable(text, 60)));
}

}  // namespace

void add_disk_options(CLI::App& command, DiskOptions& options) {
  DiskOptions* o = &options;
  add_text(command, "--image", "IMAGE", o->image, "root filesystem: an image (umwelt image ls)");
  add_text(command, "--disk", "SIZE|VDISK", o->disk,
           "what it writes goes to a vdisk: a new one of this capacity, or one that exists");
  add_parsed(
      command, "--disk-mode", "overlay|clone", parse_disk_mode,
      [o](launch::DiskMode mode) { o->mode = mode; },
      "a layer over the image, or a copy of all of it (overlay)");
  add_parsed(
      command, "--disk-class", "thin|guaranteed|scratch", parse_disk_class,
      [o](vdisk::Class c) { o->cls = c; },
      "space as it is written, all at once, or without crash safety (thin)");
  add_flag(command, "--keep", o->keep, "keep the new vdisk, under the container's name");
}

Result<void> apply_disk_options(const Context& context, const DiskOptions& o, launch::Spec& spec) {
  if (!o.image.empty() && !spec.rootfs.empty()) return fail(0, "give either --image or --rootfs");
  if (o.disk.empty() && (o.mode || o.cls || o.keep))
    return fail(0, fmt::format("{} needs --disk", o.mode  ? "--disk-mode"
                                                  : o.cls ? "--disk-class"
                                                          : "--keep"));
  if (!o.disk.empty()) {
    launch::DiskSpec disk;
    // A word that is a size is meant as one.
    if (parse_size(o.disk)) {
      auto capacity = parse_capacity(o.disk);
      if (!capacity) return fail(0, "--disk: " + capacity.error().text);
      disk.capacity_bytes = *capacity;
    } else if (!vdisk::valid_name(o.disk) || o.disk.starts_with(vdisk::kVolumePrefix)) {
      return fail(0, fmt::format("--disk: '{}' is neither a capacity, such as 10g, nor the name of "
                                 "a vdisk",
                                 printable(o.disk, 60)));
    } else {
      disk.name = o.disk;
      if (o.mode || o.cls || o.keep)
        return fail(0, fmt::format("--disk {} exists already: --disk-mode, --disk-class and --keep "
                                   "are for a new one",
                                   o.disk));
    }
    disk.mode = o.mode.value_or(launch::DiskMode::kOverlay);
    disk.cls = o.cls.value_or(vdisk::Class::kThin);
    disk.keep = o.keep;
    if (disk.keep && disk.cls == vdisk::Class::kScratch)
      return fail(0, "--keep: a vdisk of class scratch can't be kept");
    if (disk.keep && parse_size(spec.name))
      return fail(0, fmt::format("--keep: the vdisk would be named '{}', which is a capacity to "
                                 "--disk: choose another --name",
                                 spec.name));
    if (disk.mode == launch::DiskMode::kClone && o.image.empty())
      return fail(0, "--disk-mode clone needs --image");
    spec.disk = disk;
  }
  if (o.image.empty()) return {};
  const auto images = UMWELT_TRY(open_images(context));
  const auto image = UMWELT_TRY(find_image(images, o.image));
  spec.image = image.name;
  spec.environment.insert(spec.environment.begin(), image.config.environment.begin(),
                          image.config.environment.end());
  if (spec.workdir.empty()) spec.workdir = image.config.workdir;
  if (spec.user.empty()) spec.user = image.config.user;
  return {};
}

std::string amount_text(const std::string& what, std::uint64_t done_bytes,
                        std::uint64_t total_bytes) {
  if (total_bytes == 0) return fmt::format("{}: {}", what, human_size(done_bytes));
  done_bytes = std::min(done_bytes, total_bytes);
  return fmt::format("{}: {} of {} ({:.0f} %)", what, human_size(done_bytes),
                     human_size(total_bytes),
                     100.0 * static_cast<double>(done_bytes) / static_cast<double>(total_bytes));
}

vdisk::ImportProgress show_steps(Progress& progress, const std::string& subject) {
  return [&progress, subject](const vdisk::ImportStep& step) {
    progress.update(amount_text(subject + ": " + step.what, step.done_bytes, step.total_bytes));
  };
}

}  // namespace umwelt::cli
