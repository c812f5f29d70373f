// SPDX-License-Identifier: Apache-2.0
// What the commands on images, vdisks and volumes have in common.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "cli/commands.h"
#include "cli/output.h"
#include "launch/spec.h"
#include "vdisk/image.h"
#include "vdisk/store.h"

namespace umwelt::cli {

Result<vdisk::ImageStore> open_images(const Context& context);

// ENOENT as a sentence: "no such image: debain; did you mean debian?"
Result<vdisk::Image> find_image(const vdisk::ImageStore& images, const std::string& name);

Result<vdisk::Store> open_vdisks(const Context& context);

// Removes every one by `remove` and prints the names of those that are gone; a failure is printed,
// the others are still done.
Result<int> remove_each(const Operands& names, bool json,
                        const std::function<Result<void>(const std::string& name)>& remove);

nlohmann::json usage_json(const vdisk::Usage& usage);
// Record, use and figures of one vdisk; what can't be read is null.
nlohmann::json vdisk_json(const vdisk::Store& store, const vdisk::Entry& entry);

// --image, --disk, --disk-mode, --disk-class, --keep of `run`.
struct DiskOptions {
  std::string image, disk;
  std::optional<launch::DiskMode> mode;
  std::optional<vdisk::Class> cls;
  bool keep = false;
};
void add_disk_options(CLI::App& command, DiskOptions& options);
// What they mean together, with what the image wants where the command line says nothing. An Error
// with code 0 where they contradict each other, before anything is made.
Result<void> apply_disk_options(const Context& context, const DiskOptions& options,
                                launch::Spec& spec);

Result<std::uint64_t> parse_capacity(std::string_view text);  // bytes, 32 MiB to 64 TiB
Result<vdisk::Class> parse_disk_class(std::string_view text);
// fail_usage() when no vdisk can have that name, or `run --disk` could not name it.
Result<void> check_disk_name(const std::string& name);

// "unpacking layer 2/3: 1.2GiB of 3GiB (40 %)"
std::string amount_text(const std::string& what, std::uint64_t done_bytes,
                        std::uint64_t total_bytes);
// Tells `progress` of every step.
vdisk::ImportProgress show_steps(Progress& progress, const std::string& subject);

}  // namespace umwelt::cli
