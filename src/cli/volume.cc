// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/parse.h"
#include "cli/containers.h"
#include "cli/options.h"
#include "cli/storage.h"
#include "launch/cgroup.h"
#include "vdisk/explain.h"
#include "vdisk/io_limits.h"

namespace umwelt::cli {
namespace {

using vdisk::Entry;
using vdisk::IoLimits;
using vdisk::Store;

constexpr std::uint64_t kNoLimit = 0;
constexpr std::uint64_t kMinBps = 4096, kMaxBps = 1ULL << 50, kMaxIops = 1ULL << 31;

Result<std::uint64_t> parse_bps(std::string_view text) {
  if (text == "none") return kNoLimit;
  const auto bytes = parse_size(text);
  if (!bytes || *bytes < kMinBps || *bytes > kMaxBps)
    return fail(0, fmt::format("'{}' is not a speed of at least 4k a second, such as 50m, or none",
                               printable(text, 60)));
  return *bytes;
}

Result<std::uint64_t> parse_iops(std::string_view text) {
  if (text == "none") return kNoLimit;
  const auto number = parse_u64(text);
  if (!number || *number < 1 || *number > kMaxIops)
    return fail(0, fmt::format("'{}' is not a number of operations a second, or none",
                               printable(text, 60)));
  return *number;
}

// What the command line says: 0 lifts a limit, nullopt leaves it.
void add_speed_options(CLI::App& command, IoLimits& wanted) {
  IoLimits* w = &wanted;
  add_parsed(
      command, "--write-bps", "SPEED", parse_bps, [w](std::uint64_t v) { w->write_bps = v; },
      "bytes written in a second: 50m; none: no limit");
  add_parsed(
      command, "--read-bps", "SPEED", parse_bps, [w](std::uint64_t v) { w->read_bps = v; },
      "bytes read in a second");
  add_parsed(
      command, "--write-iops", "N", parse_iops, [w](std::uint64_t v) { w->write_iops = v; },
      "write operations in a second");
  add_parsed(
      command, "--read-iops", "N", parse_iops, [w](std::uint64_t v) { w->read_iops = v; },
      "read operations in a second");
}

void merge(IoLimits& limits, const IoLimits& wanted) {
  for (const auto field :
       {&IoLimits::read_bps, &IoLimits::write_bps, &IoLimits::read_iops, &IoLimits::write_iops})
    if (const auto& value = wanted.*field)
      limits.*field = *value == kNoLimit ? std::nullopt : value;
}

std::string stored_name(const std::string& name) {
  return std::string(vdisk::kVolumePrefix) + name;
}

// A volume's name is that of a vdisk without the prefix.
std::string shown_name(const Entry& entry) {
  return entry.name.substr(vdisk::kVolumePrefix.size());
}

bool is_volume(const Entry& entry) { return entry.name.starts_with(vdisk::kVolumePrefix); }

nlohmann::json volume_json(const Store& store, const Entry& entry) {
  nlohmann::json out = vdisk_json(store, entry);
  out["name"] = shown_name(entry);
  return out;
}

Result<Entry> find_volume(const Store& store, const std::string& name) {
  if (name.starts_with(vdisk::kVolumePrefix))
    return fail(0, fmt::format("{} is what umwelt vdisk calls a volume: leave '{}' away",
                               printable(name, 80), vdisk::kVolumePrefix));
  auto entry = store.find(stored_name(name));
  if (!entry) return fail(vdisk::explain(entry.error(), "volume " + printable(name, 80)));
  return entry;
}

struct CreateOptions {
  std::optional<std::uint64_t> size;
  vdisk::Class cls = vdisk::Class::kThin;
  bool shared = false, json = false;
  IoLimits limits;
};

Result<void> show_json(const Store& store, const std::string& name) {
  return print_json(volume_json(store, UMWELT_TRY(find_volume(store, name))));
}

Result<int> create(const Context& context, const CreateOptions& options, const std::string& name) {
  if (!options.size)
    return fail_usage("volume create: --size is missing; see umwelt volume create --help");
  if (const auto good = parse_name(name); !good)
    return fail_usage("volume create: " + good.error().text);
  const Store store = UMWELT_TRY(open_vdisks(context));
  vdisk::Record record;
  record.kind = vdisk::Kind::kVolume;
  record.capacity_bytes = *options.size;
  record.cls = options.cls;
  record.shared = options.shared;
  merge(record.limits, options.limits);
  {
    Progress progress("creating " + name);
    if (auto made = store.create(record, stored_name(name)); !made)
      return fail(vdisk::explain(made.error(), "volume " + name));
  }
  if (options.json)
    UMWELT_CHECK(show_json(store, name));
  else
    UMWELT_CHECK(print(name + "\n"));
  return 0;
}

std::string speed_text(const IoLimits& limits) {
  std::string text;
  const auto add = [&text](const char* what, const std::optional<std::uint64_t>& value,
                           bool bytes) {
    if (!value) return;
    if (!text.empty()) text += ", ";
    text += fmt::format("{} {}", what, bytes ? human_size(*value) + "/s" : std::to_string(*value));
  };
  add("write", limits.write_bps, true);
  add("read", limits.read_bps, true);
  add("write-iops", limits.write_iops, false);
  add("read-iops", limits.read_iops, false);
  return text.empty() ? "none" : text;
}

Result<int> list(const Context& context, bool json) {
  const Store store = UMWELT_TRY(open_vdisks(context));
  nlohmann::json out = nlohmann::json::array();
  Table table({{"NAME"},
               {"CLASS"},
               {"CAPACITY", true},
               {"USED", true},
               {"SHARED"},
               {"IN USE"},
               {"LIMITS"}});
  for (const Entry& e : UMWELT_TRY(store.list())) {
    if (!is_volume(e)) continue;
    if (json) {
      out.push_back(volume_json(store, e));
      continue;
    }
    const auto usage = store.usage(e.name);
    const vdisk::Record record = e.record.value_or(vdisk::Record());
    table.add({shown_name(e), e.record ? name_of(record.cls) : "?",
               human_size(record.capacity_bytes), usage ? human_size(usage->live_bytes) : "?",
               record.shared ? "yes" : "no", e.in_use ? "yes" : "no", speed_text(record.limits)});
  }
  if (json)
    UMWELT_CHECK(print_json(out));
  else
    UMWELT_CHECK(print(table.render(colours(STDOUT_FILENO))));
  return 0;
}

Result<int> inspect(const Context& context, const Operands& names) {
  const Store store = UMWELT_TRY(open_vdisks(context));
  nlohmann::json all = nlohmann::json::array();
  const auto act = [&](const std::string& name) -> Result<void> {
    all.push_back(volume_json(store, UMWELT_TRY(find_volume(store, name))));
    return {};
  };
  const int code = UMWELT_TRY(for_each_name(names, act));
  UMWELT_CHECK(print_json(all));
  return code;
}

// In every container that has it mounted now, or will have in a moment.
Result<void> apply_now(const launch::Store& containers, const Store& store, const std::string& name,
                       const IoLimits& limits) {
  const auto disk = store.join(stored_name(name));
  if (!disk) return {};  // not in use
  const dev_t device = disk->loop().device();
  UMWELT_CHECK(vdisk::apply_device_limits(device, limits));
  for (const launch::Launched& launched : UMWELT_TRY(containers.all())) {
    if (launched.status == launch::Status::kStopped) continue;
    for (const launch::Mount& mount : launched.spec.mounts) {
      if (mount.type != launch::MountType::kVolume || mount.source != name) continue;
      const std::string path = "/" + launch::cgroup_name(launched.spec.id);
      UMWELT_CHECK(vdisk::apply_io_limits(device, limits, {{"blkio", path}, {"", path}}));
    }
  }
  return {};
}

Result<int> update(const Context& context, const IoLimits& wanted, bool json,
                   const Operands& names) {
  if (!wanted.any())
    return fail_usage("volume update: no limit is given; see umwelt volume update --help");
  const Store store = UMWELT_TRY(open_vdisks(context));
  const launch::Store containers = UMWELT_TRY(open_store(context.directories));
  nlohmann::json all = nlohmann::json::array();
  const auto act = [&](const std::string& name) -> Result<void> {
    UMWELT_TRY(find_volume(store, name));
    const auto updated = store.update(stored_name(name), [&](vdisk::Record& r) -> Result<void> {
      merge(r.limits, wanted);
      const auto applied = apply_now(containers, store, name, r.limits);
      return applied ? applied : fail(0, applied.error().message());
    });
    if (!updated) return fail(vdisk::explain(updated.error(), "volume " + name));
    if (json) all.push_back(volume_json(store, UMWELT_TRY(find_volume(store, name))));
    return {};
  };
  const int code = UMWELT_TRY(for_each_name(names, act));
  if (json) UMWELT_CHECK(print_json(all));
  return code;
}

Result<int> remove(const Context& context, bool json, const Operands& names) {
  const Store store = UMWELT_TRY(open_vdisks(context));
  return remove_each(names, json, [&](const std::string& name) -> Result<void> {
    UMWELT_TRY(find_volume(store, name));
    if (auto removed = store.remove(stored_name(name)); !removed)
      return fail(vdisk::explain(removed.error(), "volume " + name));
    return {};
  });
}

void add_create(CLI::App& volume, Context& context) {
  auto options = std::make_shared<CreateOptions>();
  CLI::App* command =
      add_command(volume, context,
                  {.name = "create",
                   .summary = "Make a volume with a capacity and, if wanted, a speed",
                   .operands = "NAME",
                   .examples = "umwelt volume create data --size 10g --write-bps 50m\n"
                               "umwelt run -v data:/data -- psql\n",
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
  add_speed_options(*command, options->limits);
  add_flag(*command, "--shared", options->shared, "several containers may mount it at once");
  add_flag(*command, "--json", options->json, "print JSON");
}

}  // namespace

void add_volume(CLI::App& app, Context& context) {
  CLI::App* volume =
      add_group(app, "volume", "Look after disks that outlive containers and are mounted in them");
  add_create(*volume, context);

  auto json = std::make_shared<bool>(false);
  const auto add = [&](Command command) {
    CLI::App* made = add_command(*volume, context, std::move(command));
    add_flag(*made, "--json", *json, "print JSON");
  };
  add({.name = "ls",
       .summary = "List the volumes",
       .examples = "umwelt volume ls\n",
       .action = [&context, json](const Operands&) { return list(context, *json); }});
  add({.name = "inspect",
       .summary = "Print what is known of volumes as JSON",
       .operands = "VOLUME [VOLUME...]",
       .examples = "umwelt volume inspect data\n",
       .min_operands = 1,
       .max_operands = kAnyNumber,
       .action = [&context](const Operands& names) { return inspect(context, names); }});

  auto wanted = std::make_shared<IoLimits>();
  CLI::App* command =
      add_command(*volume, context,
                  {.name = "update",
                   .summary = "Change the speed limits of volumes, also while they are in use",
                   .operands = "VOLUME [VOLUME...]",
                   .examples = "umwelt volume update data --write-bps 100m\n"
                               "umwelt volume update data --write-bps none\n",
                   .min_operands = 1,
                   .max_operands = kAnyNumber,
                   .action = [&context, wanted, json](const Operands& names) {
                     return update(context, *wanted, *json, names);
                   }});
  add_speed_options(*command, *wanted);
  add_flag(*command, "--json", *json, "print JSON");
  add({.name = "rm",
       .summary = "Remove volumes with all that is on them",
       .operands = "VOLUME [VOLUME...]",
       .examples = "umwelt volume rm data\n",
       .min_operands = 1,
       .max_operands = kAnyNumber,
       .action = [&context, json](const Operands& names) {
         return remove(context, *json, names);
       }});
}

}  // namespace umwelt::cli
