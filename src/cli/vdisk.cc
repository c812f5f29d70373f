// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/containers.h"
#include "cli/options.h"
#include "cli/storage.h"
#include "vdisk/explain.h"

namespace umwelt::cli {
namespace {

using vdisk::Entry;
using vdisk::Store;

Result<void> about(const std::string& name, const Result<void>& result) {
  return result ? Result<void>() : fail(vdisk::explain(result.error(), "vdisk " + name));
}

struct CreateOptions {
  std::optional<std::uint64_t> size;
  vdisk::Class cls = vdisk::Class::kThin;
  std::string image;
  bool clone = false, json = false;
};

Result<void> create_clone(const Context& context, const Store& store, const CreateOptions& options,
                          vdisk::Record record, const std::string& name) {
  const auto images = UMWELT_TRY(open_images(context));
  const auto image = UMWELT_TRY(find_image(images, options.image));
  Progress progress("creating " + name);
  record.kind = vdisk::Kind::kClone;
  UMWELT_CHECK(store.admit(record, image.content_bytes));
  const UniqueFd base = UMWELT_TRY(
      images.clone_base(image, record.capacity_bytes, record.cls, show_steps(progress, name)));
  const auto copied = [&](std::uint64_t done, std::uint64_t total) {
    progress.update(amount_text(name + ": copying", done, total));
  };
  auto disk = UMWELT_TRY(store.make_clone(record, base.get(), copied));
  return store.publish(disk, name);
}

Result<void> show_json(const Store& store, const std::string& name) {
  return print_json(vdisk_json(store, UMWELT_TRY(store.find(name))));
}

Result<int> create(const Context& context, const CreateOptions& options, const std::string& name) {
  if (!options.size)
    return fail_usage("vdisk create: --size is missing; see umwelt vdisk create --help");
  if (options.clone && options.image.empty())
    return fail_usage("vdisk create: --clone needs --image");
  UMWELT_CHECK(check_disk_name(name));
  if (name.starts_with(vdisk::kVolumePrefix))
    return fail_usage(fmt::format("vdisk create: '{}' is a volume's name: umwelt volume create {}",
                                  name, name.substr(vdisk::kVolumePrefix.size())));
  const Store store = UMWELT_TRY(open_vdisks(context));
  vdisk::Record record;
  record.capacity_bytes = UMWELT_TRY(Store::round_capacity(*options.size));
  record.cls = options.cls;
  record.image = options.image;
  if (options.clone) {
    UMWELT_CHECK(about(name, create_clone(context, store, options, record, name)));
  } else {
    if (!options.image.empty()) {
      const auto images = UMWELT_TRY(open_images(context));
      UMWELT_TRY(find_image(images, options.image));
    }
    Progress progress("creating " + name);
    UMWELT_CHECK(about(name, store.create(record, name)));
  }
  if (options.json)
    UMWELT_CHECK(show_json(store, name));
  else
    UMWELT_CHECK(print(name + "\n"));
  return 0;
}

Result<int> list(const Context& context, bool json) {
  const Store store = UMWELT_TRY(open_vdisks(context));
  const auto entries = UMWELT_TRY(store.list());
  if (json) {
    nlohmann::json out = nlohmann::json::array();
    for (const Entry& e : entries) out.push_back(vdisk_json(store, e));
    UMWELT_CHECK(print_json(out));
    return 0;
  }
  Table table({{"NAME"}, {"KIND"}, {"CLASS"}, {"CAPACITY", true}, {"IMAGE"}, {"IN USE"}, {"KEPT"}});
  for (const Entry& e : entries) {
    if (!e.record) {
      table.add({e.name, "?", "?", "?", "", e.in_use ? "yes" : "no", "?"});
      continue;
    }
    const vdisk::Record& r = *e.record;
    table.add({e.name, r.snapshot_of.empty() ? name_of(r.kind) : "snapshot", name_of(r.cls),
               human_size(r.capacity_bytes), r.image, e.in_use ? "yes" : "no",
               r.keep ? "yes" : "no"});
  }
  UMWELT_CHECK(print(table.render(colours(STDOUT_FILENO))));
  return 0;
}

nlohmann::json sums_json(const vdisk::Sums& sums) {
  return {{"vdisks", sums.vdisks},
          {"promised_bytes", sums.promised_bytes},
          {"promisable_bytes", sums.promisable_bytes()},
          {"allocated_bytes", sums.allocated_bytes},
          {"size_bytes", sums.size_bytes},
          {"free_bytes", sums.free_bytes},
          {"low_water_bytes", sums.low_water_bytes},
          {"critical_bytes", sums.critical_bytes},
          {"overcommit", sums.overcommit ? nlohmann::json(*sums.overcommit) : nlohmann::json()},
          {"level", name_of(vdisk::level(sums))}};
}

Result<int> df(const Context& context, bool json) {
  const Store store = UMWELT_TRY(open_vdisks(context));
  const auto entries = UMWELT_TRY(store.list());
  const auto sums = UMWELT_TRY(store.sums());
  if (json) {
    nlohmann::json out = {{"pool", sums_json(sums)}, {"vdisks", nlohmann::json::array()}};
    for (const Entry& e : entries) out["vdisks"].push_back(vdisk_json(store, e));
    UMWELT_CHECK(print_json(out));
    return 0;
  }
  Table table(
      {{"NAME"}, {"CAPACITY", true}, {"LIVE", true}, {"ALLOCATED", true}, {"RECLAIMABLE", true}});
  for (const Entry& e : entries) {
    const auto usage = store.usage(e.name);
    if (usage)
      table.add({e.name, human_size(usage->capacity_bytes), human_size(usage->live_bytes),
                 human_size(usage->allocated_bytes), human_size(usage->reclaimable_bytes())});
    else
      table.add({e.name, "?", "?", "?", "?"});
  }
  std::string text = table.render(colours(STDOUT_FILENO));
  text += fmt::format(
      "\n{} promised of {} ({}), {} allocated, {} of {} free: level {}\n",
      human_size(sums.promised_bytes), human_size(sums.promisable_bytes()),
      sums.overcommit ? fmt::format("overcommit={:g}", *sums.overcommit) : std::string("reserve"),
      human_size(sums.allocated_bytes), human_size(sums.free_bytes), human_size(sums.size_bytes),
      name_of(vdisk::level(sums)));
  UMWELT_CHECK(print(text));
  return 0;
}

Result<int> inspect(const Context& context, const Operands& names) {
  const Store store = UMWELT_TRY(open_vdisks(context));
  nlohmann::json all = nlohmann::json::array();
  const auto act = [&](const std::string& name) -> Result<void> {
    const auto entry = store.find(name);
    if (!entry) return fail(vdisk::explain(entry.error(), "vdisk " + name));
    all.push_back(vdisk_json(store, *entry));
    return {};
  };
  const int code = UMWELT_TRY(for_each_name(names, act));
  UMWELT_CHECK(print_json(all));
  return code;
}

Result<int> grow(const Context& context, std::optional<std::uint64_t> size, bool json,
                 const std::string& name) {
  if (!size) return fail_usage("vdisk grow: --size is missing; see umwelt vdisk grow --help");
  const Store store = UMWELT_TRY(open_vdisks(context));
  std::optional<Progress> progress("growing " + name);
  auto grown = store.resize(name, *size);
  progress.reset();
  if (!grown && grown.error().code == EPERM)
    return fail(0, fmt::format("vdisk {} is in use, and only a process with CAP_SYS_RESOURCE may "
                               "grow it then: stop its container first",
                               name));
  UMWELT_CHECK(about(name, grown));
  if (json) UMWELT_CHECK(show_json(store, name));
  return 0;
}

// A volume's copy is a volume, and only what has a volume's name can be mounted as one.
Result<void> check_copy_name(const Store& store, const std::string& source,
                             const std::string& name) {
  const auto entry = store.find(source);
  if (!entry || !entry->record) return {};  // copying it says so
  const bool volume = entry->record->kind == vdisk::Kind::kVolume;
  if (volume == name.starts_with(vdisk::kVolumePrefix)) return {};
  return fail_usage(volume ? fmt::format("{} is a volume, and so is a copy of it: name it {}{}",
                                         source, vdisk::kVolumePrefix, name)
                           : fmt::format("{} is no volume, nor is a copy of it: name it {}", source,
                                         name.substr(vdisk::kVolumePrefix.size())));
}

Result<int> copy(const Context& context, bool read_only, bool json, const Operands& names) {
  UMWELT_CHECK(check_disk_name(names[1]));
  const Store store = UMWELT_TRY(open_vdisks(context));
  UMWELT_CHECK(check_copy_name(store, names[0], names[1]));
  Progress progress("copying " + names[0]);
  auto copied =
      store.copy(names[0], names[1], read_only, [&](std::uint64_t done, std::uint64_t total) {
        progress.update(amount_text(names[0] + ": copying", done, total));
      });
  if (!copied && copied.error().code == EEXIST) UMWELT_CHECK(about(names[1], copied));
  UMWELT_CHECK(about(names[0], copied));
  if (json)
    UMWELT_CHECK(show_json(store, names[1]));
  else
    UMWELT_CHECK(print(names[1] + "\n"));
  return 0;
}

Result<std::uint64_t> trim_one(const Store& store, const std::string& name) {
  auto disk = store.join(name);
  if (!disk && disk.error().code == ENOTCONN) disk = store.attach(name);
  if (!disk) return fail(disk.error());
  UMWELT_TRY(vdisk::trim(*disk));
  return UMWELT_TRY(vdisk::usage(*disk)).allocated_bytes;
}

Result<int> trim(const Context& context, bool json, Operands names) {
  const Store store = UMWELT_TRY(open_vdisks(context));
  if (names.empty())
    for (const Entry& e : UMWELT_TRY(store.list()))
      if (e.record && e.record->cls != vdisk::Class::kGuaranteed && e.record->snapshot_of.empty())
        names.push_back(e.name);
  nlohmann::json out = nlohmann::json::array();
  const auto act = [&](const std::string& name) -> Result<void> {
    Progress progress("trimming " + name);
    const auto before = store.usage(name);
    if (!before) return fail(vdisk::explain(before.error(), "vdisk " + name));
    const auto after = trim_one(store, name);
    if (!after) return fail(vdisk::explain(after.error(), "vdisk " + name));
    const std::uint64_t freed =
        before->allocated_bytes > *after ? before->allocated_bytes - *after : 0;
    if (!json) return print(fmt::format("{}  {} freed\n", name, human_size(freed)));
    out.push_back({{"name", name}, {"freed_bytes", freed}, {"allocated_bytes", *after}});
    return {};
  };
  const int code = UMWELT_TRY(for_each_name(names, act));
  if (json) UMWELT_CHECK(print_json(out));
  return code;
}

const char* word_of(vdisk::Health health) {
  return health == vdisk::Health::kClean      ? "clean"
         : health == vdisk::Health::kRepaired ? "repaired"
                                              : "damaged";
}

Result<int> check(const Context& context, vdisk::Effort effort, bool json, const Operands& names) {
  const Store store = UMWELT_TRY(open_vdisks(context));
  nlohmann::json out = nlohmann::json::array();
  bool damaged = false;
  const auto act = [&](const std::string& name) -> Result<void> {
    Progress progress("checking " + name);
    const auto file = store.lock(name);
    if (!file) return fail(vdisk::explain(file.error(), "vdisk " + name));
    const auto report = vdisk::check(file->get(), effort);
    if (!report) return fail(vdisk::explain(report.error(), "vdisk " + name));
    damaged |= report->health == vdisk::Health::kDamaged;
    out.push_back({{"name", name}, {"health", word_of(report->health)}, {"text", report->text}});
    if (json) return {};
    return print(fmt::format("{}  {}\n", name, word_of(report->health)) +
                 (report->health == vdisk::Health::kClean ? "" : report->text));
  };
  const int code = UMWELT_TRY(for_each_name(names, act));
  if (json) UMWELT_CHECK(print_json(out));
  return damaged ? kExitFailure : code;
}

Result<int> remove(const Context& context, bool json, const Operands& names) {
  const Store store = UMWELT_TRY(open_vdisks(context));
  return remove_each(names, json, [&](const std::string& name) -> Result<void> {
    return about(name, store.remove(name));
  });
}

void add_create(CLI::App& vdisk, Context& context) {
  auto options = std::make_shared<CreateOptions>();
  CLI::App* command = add_command(vdisk, context,
                                  {.name = "create",
                                   .summary = "Make an empty vdisk for a container to come",
                                   .operands = "NAME",
                                   .examples = "umwelt vdisk create web --size 10g\n"
                                               "umwelt run --image debian-12 --disk web -- bash\n",
                                   .min_operands = 1,
                                   .max_operands = 1,
                                   .action = [&context, options](const Operands& names) {
                                     return create(context, *options, names.front());
                                   }});
  add_parsed(
      *command, "-s,--size", "SIZE", parse_capacity,
      [options](std::uint64_t v) { options->size = v; }, "capacity, 32m to 64t");
  add_parsed(
      *command, "--class", "thin|guaranteed|scratch", parse_disk_class,
      [options](vdisk::Class c) { options->cls = c; }, "how space is taken (thin)");
  add_text(*command, "--image", "IMAGE", options->image, "the image it will lie over");
  add_flag(*command, "--clone", options->clone, "copy all of the image to it");
  add_flag(*command, "--json", options->json, "print JSON");
}

void add_grow(CLI::App& vdisk, Context& context) {
  auto size = std::make_shared<std::optional<std::uint64_t>>();
  auto json = std::make_shared<bool>(false);
  CLI::App* command =
      add_command(vdisk, context,
                  {.name = "grow",
                   .summary = "Change the capacity of a vdisk; in use it only becomes larger",
                   .operands = "VDISK",
                   .examples = "umwelt vdisk grow web --size 20g\n",
                   .min_operands = 1,
                   .max_operands = 1,
                   .action = [&context, size, json](const Operands& names) {
                     return grow(context, *size, *json, names.front());
                   }});
  add_parsed(
      *command, "-s,--size", "SIZE", parse_capacity, [size](std::uint64_t v) { *size = v; },
      "the new capacity");
  add_flag(*command, "--json", *json, "print JSON");
}

}  // namespace

void add_vdisk(CLI::App& app, Context& context) {
  CLI::App* vdisk = add_group(app, "vdisk", "Look after the disks of containers");
  add_create(*vdisk, context);

  auto json = std::make_shared<bool>(false);
  const auto add = [&](Command command) {
    CLI::App* made = add_command(*vdisk, context, std::move(command));
    add_flag(*made, "--json", *json, "print JSON");
  };
  add({.name = "ls",
       .summary = "List the vdisks",
       .examples = "umwelt vdisk ls\n",
       .action = [&context, json](const Operands&) { return list(context, *json); }});
  add({.name = "df",
       .summary = "Print how much of them is used, and how full the host is",
       .examples = "umwelt vdisk df\n",
       .action = [&context, json](const Operands&) { return df(context, *json); }});
  add({.name = "inspect",
       .summary = "Print what is known of vdisks as JSON",
       .operands = "VDISK [VDISK...]",
       .examples = "umwelt vdisk inspect web\n",
       .min_operands = 1,
       .max_operands = kAnyNumber,
       .action = [&context](const Operands& names) { return inspect(context, names); }});
  add_grow(*vdisk, context);
  for (const bool read_only : {true, false})
    add({.name = read_only ? "snapshot" : "clone",
         .summary = read_only ? "Copy a vdisk as it is now, never to be changed"
                              : "Copy a vdisk as it is now",
         .operands = "VDISK NAME",
         .examples = read_only ? "umwelt vdisk snapshot web web-before\n"
                               : "umwelt vdisk clone web-before web-2\n",
         .min_operands = 2,
         .max_operands = 2,
         .action = [&context, json, read_only](const Operands& names) {
           return copy(context, read_only, *json, names);
         }});
  add({.name = "trim",
       .summary = "Give the space of deleted files back to the host",
       .operands = "[VDISK...]",
       .examples = "umwelt vdisk trim                  # all of them\n",
       .max_operands = kAnyNumber,
       .action = [&context, json](const Operands& names) { return trim(context, *json, names); }});
  add({.name = "check",
       .summary = "Look for damage; nothing but the journal is changed",
       .operands = "VDISK [VDISK...]",
       .examples = "umwelt vdisk check web\n",
       .min_operands = 1,
       .max_operands = kAnyNumber,
       .action = [&context, json](const Operands& names) {
         return check(context, vdisk::Effort::kLook, *json, names);
       }});
  add({.name = "repair",
       .summary = "Repair what can be repaired",
       .operands = "VDISK [VDISK...]",
       .examples = "umwelt vdisk repair web\n",
       .min_operands = 1,
       .max_operands = kAnyNumber,
       .action = [&context, json](const Operands& names) {
         return check(context, vdisk::Effort::kEverything, *json, names);
       }});
  add({.name = "rm",
       .summary = "Remove vdisks with all that is on them",
       .operands = "VDISK [VDISK...]",
       .examples = "umwelt vdisk rm web\n",
       .min_operands = 1,
       .max_operands = kAnyNumber,
       .action = [&context, json](const Operands& names) {
         return remove(context, *json, names);
       }});
}

}  // namespace umwelt::cli
