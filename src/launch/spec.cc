// SPDX-License-Identifier: Apache-2.0
#include "launch/spec.h"

#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <utility>

#include "container/json_fields.h"
#include "container/record.h"

namespace umwelt::launch {
namespace {

using container::bad_field;
using container::find_field;
using container::read_field;
using nlohmann::json;

template <class T>
using Word = std::pair<std::string_view, T>;

constexpr Word<Status> kStatuses[] = {
    {"created", Status::kCreated}, {"running", Status::kRunning}, {"stopped", Status::kStopped}};
constexpr Word<Network> kNetworks[] = {{"host", Network::kHost}, {"none", Network::kNone}};
constexpr Word<MountType> kMountTypes[] = {
    {"bind", MountType::kBind}, {"tmpfs", MountType::kTmpfs}, {"volume", MountType::kVolume}};
constexpr Word<DiskMode> kDiskModes[] = {{"overlay", DiskMode::kOverlay},
                                         {"clone", DiskMode::kClone}};
constexpr Word<Views> kViewsWords[] = {
    {"required", Views::kRequired}, {"best-effort", Views::kBestEffort}, {"none", Views::kNone}};
constexpr Word<vdisk::Class> kDiskClasses[] = {{"thin", vdisk::Class::kThin},
                                               {"guaranteed", vdisk::Class::kGuaranteed},
                                               {"scratch", vdisk::Class::kScratch}};

template <class T>
std::string word_of(std::span<const Word<T>> words, T value) {
  for (const auto& [word, meaning] : words)
    if (meaning == value) return std::string(word);
  return {};
}

template <class T>
Result<void> read_word(const json& object, const char* key, std::span<const Word<T>> words,
                       T& out) {
  std::string text;
  UMWELT_CHECK(read_field(object, key, text));
  if (text.empty()) return {};
  for (const auto& [word, meaning] : words) {
    if (text != word) continue;
    out = meaning;
    return {};
  }
  return bad_field(key, "one of the known words");
}

Result<void> read_strings(const json& object, const char* key, std::vector<std::string>& out) {
  const json* field = find_field(object, key);
  if (field == nullptr) return {};
  if (!field->is_array()) return bad_field(key, "a list of strings");
  for (const json& item : *field) {
    if (!item.is_string()) return bad_field(key, "a list of strings");
    out.push_back(item.get<std::string>());
  }
  return {};
}

template <class T>
Result<void> read_optional(const json& object, const char* key, std::optional<T>& out) {
  if (find_field(object, key) == nullptr) return {};
  T value{};
  UMWELT_CHECK(read_field(object, key, value));
  out = value;
  return {};
}

Result<void> read_cpu_set(const json& object, const char* key, std::optional<CpuSet>& out) {
  std::string list;
  UMWELT_CHECK(read_field(object, key, list));
  if (list.empty()) return {};
  out = CpuSet::parse(list);
  if (!out) return bad_field(key, "a list of ids");
  return {};
}

template <class T>
void put(json& object, const char* key, const std::optional<T>& value) {
  if (value) object[key] = *value;
}

json limits_to_json(const ResourceLimits& limits) {
  json object = json::object();
  if (limits.cpuset_cpus) object["cpuset_cpus"] = limits.cpuset_cpus->list();
  if (limits.cpuset_mems) object["cpuset_mems"] = limits.cpuset_mems->list();
  if (limits.bandwidth) {
    object["cpu_quota_us"] = limits.bandwidth->quota_us;
    object["cpu_period_us"] = limits.bandwidth->period_us;
  }
  put(object, "cpu_shares", limits.cpu_shares);
  put(object, "memory_bytes", limits.memory_bytes);
  put(object, "memory_swap_bytes", limits.memory_swap_bytes);
  if (limits.memory_swap_unlimited) object["memory_swap_unlimited"] = true;
  put(object, "pids_limit", limits.pids_limit);
  return object;
}

Result<void> read_limits(const json& object, ResourceLimits& limits) {
  UMWELT_CHECK(read_cpu_set(object, "cpuset_cpus", limits.cpuset_cpus));
  UMWELT_CHECK(read_cpu_set(object, "cpuset_mems", limits.cpuset_mems));
  if (find_field(object, "cpu_quota_us") != nullptr) {
    cgroup::Bandwidth bandwidth;
    UMWELT_CHECK(read_field(object, "cpu_quota_us", bandwidth.quota_us));
    UMWELT_CHECK(read_field(object, "cpu_period_us", bandwidth.period_us));
    if (bandwidth.period_us == 0) return bad_field("cpu_period_us", "above 0");
    limits.bandwidth = bandwidth;
  }
  UMWELT_CHECK(read_optional(object, "cpu_shares", limits.cpu_shares));
  UMWELT_CHECK(read_optional(object, "memory_bytes", limits.memory_bytes));
  UMWELT_CHECK(read_optional(object, "memory_swap_bytes", limits.memory_swap_bytes));
  UMWELT_CHECK(read_field(object, "memory_swap_unlimited", limits.memory_swap_unlimited));
  UMWELT_CHECK(read_optional(object, "pids_limit", limits.pids_limit));
  return {};
}

json mount_to_json(const Mount& mount) {
  json object = {{"type", word_of<MountType>(kMountTypes, mount.type)},
                 {"source", mount.source},
                 {"target", mount.target},
                 {"read_only", mount.read_only}};
  put(object, "size_bytes", mount.size_bytes);
  put(object, "mode", mount.mode);
  return object;
}

Result<Mount> mount_from_json(const json& object) {
  if (!object.is_object()) return bad_field("mounts", "a list of objects");
  Mount mount;
  UMWELT_CHECK(read_word<MountType>(object, "type", kMountTypes, mount.type));
  UMWELT_CHECK(read_field(object, "source", mount.source));
  UMWELT_CHECK(read_field(object, "target", mount.target));
  UMWELT_CHECK(read_field(object, "read_only", mount.read_only));
  UMWELT_CHECK(read_optional(object, "size_bytes", mount.size_bytes));
  UMWELT_CHECK(read_optional(object, "mode", mount.mode));
  return mount;
}

json disk_to_json(const DiskSpec& disk) {
  return {{"capacity_bytes", disk.capacity_bytes},
          {"name", disk.name},
          {"mode", word_of<DiskMode>(kDiskModes, disk.mode)},
          {"class", word_of<vdisk::Class>(kDiskClasses, disk.cls)},
          {"keep", disk.keep}};
}

Result<DiskSpec> disk_from_json(const json& object) {
  if (!object.is_object()) return bad_field("disk", "an object");
  DiskSpec disk;
  UMWELT_CHECK(read_field(object, "capacity_bytes", disk.capacity_bytes));
  UMWELT_CHECK(read_field(object, "name", disk.name));
  UMWELT_CHECK(read_word<DiskMode>(object, "mode", kDiskModes, disk.mode));
  UMWELT_CHECK(read_word<vdisk::Class>(object, "class", kDiskClasses, disk.cls));
  UMWELT_CHECK(read_field(object, "keep", disk.keep));
  return disk;
}

json spec_to_json(const Spec& spec) {
  json mounts = json::array();
  for (const Mount& mount : spec.mounts) mounts.push_back(mount_to_json(mount));
  return {{"id", spec.id},
          {"name", spec.name},
          {"hostname", spec.hostname},
          {"command", spec.command},
          {"environment", spec.environment},
          {"workdir", spec.workdir},
          {"user", spec.user},
          {"image", spec.image},
          {"disk", spec.disk ? disk_to_json(*spec.disk) : json()},
          {"rootfs", spec.rootfs},
          {"mounts", std::move(mounts)},
          {"limits", limits_to_json(spec.limits)},
          {"policy", container::to_json(spec.policy)},
          {"network", word_of<Network>(kNetworks, spec.network)},
          {"views", word_of<Views>(kViewsWords, spec.views)},
          {"read_only", spec.read_only},
          {"tty", spec.tty},
          {"interactive", spec.interactive},
          {"detach", spec.detach},
          {"remove", spec.remove},
          {"init", spec.init}};
}

Result<Spec> spec_from_json(const json& object) {
  if (!object.is_object()) return bad_field("spec", "an object");
  Spec spec;
  UMWELT_CHECK(read_field(object, "id", spec.id));
  if (!container::valid_id(spec.id)) return bad_field("id", "a container id");
  UMWELT_CHECK(read_field(object, "name", spec.name));
  UMWELT_CHECK(read_field(object, "hostname", spec.hostname));
  UMWELT_CHECK(read_strings(object, "command", spec.command));
  UMWELT_CHECK(read_strings(object, "environment", spec.environment));
  UMWELT_CHECK(read_field(object, "workdir", spec.workdir));
  UMWELT_CHECK(read_field(object, "user", spec.user));
  UMWELT_CHECK(read_field(object, "image", spec.image));
  if (const json* disk = find_field(object, "disk")) spec.disk = UMWELT_TRY(disk_from_json(*disk));
  UMWELT_CHECK(read_field(object, "rootfs", spec.rootfs));
  if (const json* mounts = find_field(object, "mounts")) {
    if (!mounts->is_array()) return bad_field("mounts", "a list of objects");
    for (const json& mount : *mounts) spec.mounts.push_back(UMWELT_TRY(mount_from_json(mount)));
  }
  if (const json* limits = find_field(object, "limits")) {
    if (!limits->is_object()) return bad_field("limits", "an object");
    UMWELT_CHECK(read_limits(*limits, spec.limits));
  }
  if (const json* policy = find_field(object, "policy"))
    spec.policy = UMWELT_TRY(container::policy_from_json(*policy));
  UMWELT_CHECK(read_word<Network>(object, "network", kNetworks, spec.network));
  UMWELT_CHECK(read_word<Views>(object, "views", kViewsWords, spec.views));
  UMWELT_CHECK(read_field(object, "read_only", spec.read_only));
  UMWELT_CHECK(read_field(object, "tty", spec.tty));
  UMWELT_CHECK(read_field(object, "interactive", spec.interactive));
  UMWELT_CHECK(read_field(object, "detach", spec.detach));
  UMWELT_CHECK(read_field(object, "remove", spec.remove));
  UMWELT_CHECK(read_field(object, "init", spec.init));
  return spec;
}

}  // namespace

json to_json(const Launched& launched) {
  json object = {{"spec", spec_to_json(launched.spec)},
                 {"status", word_of<Status>(kStatuses, launched.status)},
                 {"init_pid", launched.init_pid},
                 {"init_starttime", launched.init_starttime},
                 {"monitor_pid", launched.monitor_pid},
                 {"monitor_starttime", launched.monitor_starttime},
                 {"created_s", launched.created_s},
                 {"started_s", launched.started_s},
                 {"finished_s", launched.finished_s},
                 {"oom_killed", launched.oom_killed}};
  put(object, "exit_code", launched.exit_code);
  return object;
}

Result<Launched> launched_from_json(const json& object) {
  if (!object.is_object()) return fail(EINVAL, "the container's state is not a JSON object");
  Launched launched;
  const json* spec = find_field(object, "spec");
  if (spec == nullptr) return bad_field("spec", "an object");
  launched.spec = UMWELT_TRY(spec_from_json(*spec));
  UMWELT_CHECK(read_word<Status>(object, "status", kStatuses, launched.status));
  UMWELT_CHECK(read_field(object, "init_pid", launched.init_pid));
  UMWELT_CHECK(read_field(object, "init_starttime", launched.init_starttime));
  UMWELT_CHECK(read_field(object, "monitor_pid", launched.monitor_pid));
  UMWELT_CHECK(read_field(object, "monitor_starttime", launched.monitor_starttime));
  UMWELT_CHECK(read_field(object, "created_s", launched.created_s));
  UMWELT_CHECK(read_field(object, "started_s", launched.started_s));
  UMWELT_CHECK(read_field(object, "finished_s", launched.finished_s));
  UMWELT_CHECK(read_optional(object, "exit_code", launched.exit_code));
  UMWELT_CHECK(read_field(object, "oom_killed", launched.oom_killed));
  return launched;
}

}  // namespace umwelt::launch
