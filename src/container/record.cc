// SPDX-License-Identifier: Apache-2.0
#include "container/record.h"

#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>

#include "base/file.h"
#include "base/parse.h"
#include "container/json_fields.h"

namespace umwelt::container {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxNameBytes = 255;
constexpr std::size_t kMaxHostnameBytes = 64;  // HOST_NAME_MAX
constexpr std::size_t kMaxDiskNameBytes = 31;  // DISK_NAME_LEN - 1
constexpr std::size_t kMaxDiskColumns = 64;
constexpr std::size_t kMaxControllers = 64;
constexpr std::size_t kMaxPathBytes = 4095;

template <class T>
struct Word {
  std::string_view word;
  T value;
};
constexpr Word<view::CpuPolicy> kCpuPolicies[] = {{"ceil", view::CpuPolicy::kCeil},
                                                  {"floor", view::CpuPolicy::kFloor},
                                                  {"cpuset", view::CpuPolicy::kCpuset}};
constexpr Word<view::CpuIds> kCpuIds[] = {
    {"auto", view::CpuIds::kAuto}, {"dense", view::CpuIds::kDense}, {"host", view::CpuIds::kHost}};
constexpr Word<view::UptimePolicy> kUptimes[] = {{"auto", view::UptimePolicy::kAuto},
                                                 {"container", view::UptimePolicy::kContainer},
                                                 {"host", view::UptimePolicy::kHost}};

template <class T>
std::string word_of(std::span<const Word<T>> words, T value) {
  for (const Word<T>& row : words)
    if (row.value == value) return std::string(row.word);
  return {};
}

template <class T>
Result<void> read_word(const json& object, const char* key, std::span<const Word<T>> words,
                       T& out) {
  const json* field = find_field(object, key);
  if (field == nullptr) return {};
  std::string expected = "one of";
  for (const Word<T>& row : words) {
    if (field->is_string() && field->get_ref<const std::string&>() == row.word) {
      out = row.value;
      return {};
    }
    expected += " " + std::string(row.word);
  }
  return bad_field(key, expected.c_str());
}

bool control_character(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

// Names are shown in files of one line per value and in tables.
Result<void> check_name(const char* key, const std::string& text, std::size_t max_bytes) {
  if (text.size() > max_bytes || std::any_of(text.begin(), text.end(), control_character))
    return fail(EINVAL, std::string("\"") + key + "\" is too long or has control characters");
  return {};
}

// "cpu", "name=systemd", "" (cgroup2)
bool valid_controller(std::string_view name) {
  return name.size() <= 255 && name.find('/') == std::string_view::npos &&
         std::none_of(name.begin(), name.end(), control_character);
}

Result<void> read_cgroup_paths(const json& object, cgroup::Paths& out) {
  const json* field = find_field(object, "cgroup");
  if (field == nullptr) return {};
  if (!field->is_object() || field->size() > kMaxControllers)
    return bad_field("cgroup", "an object: controller to path");
  for (const auto& [controller, path] : field->items()) {
    if (!valid_controller(controller) || !path.is_string() ||
        !cgroup::check_path(path.get_ref<const std::string&>()))
      return bad_field("cgroup", "an object: controller to absolute path without \"..\"");
    out[controller] = path.get<std::string>();
  }
  return {};
}

Result<view::Disk> disk_from_json(const json& value) {
  if (!value.is_object()) return bad_field("disk", "an object");
  view::Disk disk;
  UMWELT_CHECK(read_field(value, "major", disk.major));
  UMWELT_CHECK(read_field(value, "minor", disk.minor));
  UMWELT_CHECK(read_field(value, "name", disk.name));
  if (const json* before = find_field(value, "counts_before")) {
    if (!before->is_array() || before->size() > kMaxDiskColumns ||
        !std::all_of(before->begin(), before->end(),
                     [](const json& count) { return count.is_number_unsigned(); }))
      return bad_field("counts_before", "at most 64 numbers");
    disk.counts_before = before->get<std::vector<std::uint64_t>>();
  }
  // The name is a column of /proc/diskstats.
  if (disk.name.size() > kMaxDiskNameBytes ||
      std::any_of(disk.name.begin(), disk.name.end(),
                  [](char c) { return control_character(c) || c == ' '; }))
    return bad_field("disk", "a device with a name of at most 31 characters without blanks");
  return disk;
}

bool absolute_path(std::string_view path) {
  if (!path.starts_with('/') || path.size() > kMaxPathBytes) return false;
  while (!path.empty())
    if (next_part(path, '/') == "..") return false;
  return true;
}

std::uint64_t clock_ns(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000U +
         static_cast<std::uint64_t>(time.tv_nsec);
}

Result<std::string> directory(const std::string& given, const char* option, const char* variable,
                              const std::string& fallback) {
  const char* environment = std::getenv(variable);
  std::string path = given;
  if (path.empty() && environment != nullptr) path = environment;
  if (path.empty()) path = fallback;
  if (!absolute_path(path) || std::any_of(path.begin(), path.end(), control_character))
    return fail(0, std::string(given.empty() ? variable : option) + ": '" + path +
                       "' is not an absolute path without '..'");
  path = std::filesystem::path(path).lexically_normal().string();
  if (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

view::Identity Record::identity() const {
  view::Identity identity;
  identity.id = id;
  identity.name = name;
  identity.hostname = hostname;
  identity.start_boottime_ns = start_boottime_ns;
  identity.start_realtime_s = start_realtime_s;
  identity.time_namespace = time_namespace;
  identity.limited = std::any_of(cgroup_paths.begin(), cgroup_paths.end(),
                                 [](const auto& entry) { return entry.second != "/"; });
  identity.disk_capacity_bytes = disk_capacity_bytes;
  identity.disk = disk;
  identity.policy = policy;
  return identity;
}

bool valid_id(std::string_view id) {
  const auto alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  return !id.empty() && id.size() <= 64 && alphanumeric(id.front()) &&
         std::all_of(id.begin(), id.end(),
                     [&](char c) { return alphanumeric(c) || c == '_' || c == '.' || c == '-'; });
}

json to_json(const view::Policy& policy) {
  return {{"cpus", word_of<view::CpuPolicy>(kCpuPolicies, policy.cpu_policy)},
          {"cpu_ids", word_of<view::CpuIds>(kCpuIds, policy.cpu_ids)},
          {"uptime", word_of<view::UptimePolicy>(kUptimes, policy.uptime)},
          {"affinity_virtualised", policy.affinity_virtualised}};
}

Result<view::Policy> policy_from_json(const json& value) {
  if (!value.is_object()) return bad_field("policy", "an object");
  view::Policy policy;
  UMWELT_CHECK(read_word<view::CpuPolicy>(value, "cpus", kCpuPolicies, policy.cpu_policy));
  UMWELT_CHECK(read_word<view::CpuIds>(value, "cpu_ids", kCpuIds, policy.cpu_ids));
  UMWELT_CHECK(read_word<view::UptimePolicy>(value, "uptime", kUptimes, policy.uptime));
  UMWELT_CHECK(read_field(value, "affinity_virtualised", policy.affinity_virtualised));
  return policy;
}

json to_json(const Record& record) {
  json paths = json::object();
  for (const auto& [controller, path] : record.cgroup_paths) paths[controller] = path;
  json out = {{"number", record.number},
              {"id", record.id},
              {"name", record.name},
              {"hostname", record.hostname},
              {"init_pid", record.init_pid},
              {"init_starttime", record.init_starttime},
              {"cgroup", std::move(paths)},
              {"cgroup_inode", record.cgroup_inode},
              {"start_boottime_ns", record.start_boottime_ns},
              {"start_realtime_s", record.start_realtime_s},
              {"time_namespace", record.time_namespace},
              {"grows_on_host", record.grows_on_host},
              {"policy", to_json(record.policy)}};
  if (record.disk_capacity_bytes) out["disk_capacity_bytes"] = *record.disk_capacity_bytes;
  if (const auto& disk = record.disk)
    out["disk"] = {{"major", disk->major},
                   {"minor", disk->minor},
                   {"name", disk->name},
                   {"counts_before", disk->counts_before}};
  return out;
}

Result<Record> record_from_json(const json& value) {
  if (!value.is_object()) return fail(EINVAL, "a record must be a JSON object");
  Record record;
  UMWELT_CHECK(read_field(value, "number", record.number));
  UMWELT_CHECK(read_field(value, "id", record.id));
  if (!valid_id(record.id))
    return fail(EINVAL, "\"id\" must be 1 to 64 of [a-zA-Z0-9_.-], a letter or digit first");
  UMWELT_CHECK(read_field(value, "name", record.name));
  UMWELT_CHECK(check_name("name", record.name, kMaxNameBytes));
  UMWELT_CHECK(read_field(value, "hostname", record.hostname));
  UMWELT_CHECK(check_name("hostname", record.hostname, kMaxHostnameBytes));
  UMWELT_CHECK(read_field(value, "init_pid", record.init_pid));
  if (record.init_pid < 0) return bad_field("init_pid", "a process id");
  UMWELT_CHECK(read_field(value, "init_starttime", record.init_starttime));
  UMWELT_CHECK(read_cgroup_paths(value, record.cgroup_paths));
  UMWELT_CHECK(read_field(value, "cgroup_inode", record.cgroup_inode));
  UMWELT_CHECK(read_field(value, "start_boottime_ns", record.start_boottime_ns));
  UMWELT_CHECK(read_field(value, "start_realtime_s", record.start_realtime_s));
  UMWELT_CHECK(read_field(value, "time_namespace", record.time_namespace));
  UMWELT_CHECK(read_field(value, "grows_on_host", record.grows_on_host));
  if (find_field(value, "disk_capacity_bytes") != nullptr) {
    std::uint64_t bytes = 0;
    UMWELT_CHECK(read_field(value, "disk_capacity_bytes", bytes));
    record.disk_capacity_bytes = bytes;
  }
  if (const json* disk = find_field(value, "disk")) record.disk = UMWELT_TRY(disk_from_json(*disk));
  if (const json* policy = find_field(value, "policy"))
    record.policy = UMWELT_TRY(policy_from_json(*policy));
  return record;
}

Result<ProcessStat> read_process_stat(pid_t pid) {
  auto text = read_file("/proc/" + std::to_string(pid) + "/stat");
  // ESRCH also comes from the read, when the process is reaped in between.
  if (!text && (text.error().code == ENOENT || text.error().code == ESRCH))
    return fail(ESRCH, "process " + std::to_string(pid));
  if (!text) return fail(text.error());
  // The name, in parentheses, may hold any character, ")" too.
  const std::size_t name_end = text->rfind(')');
  std::string_view rest = *text;
  rest.remove_prefix(name_end == std::string::npos ? rest.size() : name_end + 1);
  ProcessStat stat;
  const std::string_view state = next_word(rest);
  if (!state.empty()) stat.state = state.front();
  for (int field = 4; field < 22; ++field) next_word(rest);
  const auto starttime = parse_u64(next_word(rest));
  if (!starttime) return fail(EINVAL, "parse /proc/" + std::to_string(pid) + "/stat");
  stat.starttime = *starttime;
  return stat;
}

Result<std::uint64_t> read_starttime(pid_t pid) {
  return UMWELT_TRY(read_process_stat(pid)).starttime;
}

std::uint64_t boottime_ns() { return clock_ns(CLOCK_BOOTTIME); }

std::uint64_t starttime_to_boottime_ns(std::uint64_t starttime) {
  return mul_div(starttime, 1'000'000'000U, static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK)));
}

std::int64_t boottime_to_realtime_s(std::uint64_t boottime) {
  const std::uint64_t age = saturating_sub(boottime_ns(), boottime);
  return static_cast<std::int64_t>(saturating_sub(clock_ns(CLOCK_REALTIME), age) / 1'000'000'000U);
}

Result<bool> is_process(pid_t pid, std::uint64_t starttime) {
  const auto stat = read_process_stat(pid);
  if (!stat && stat.error().code != ESRCH) return fail(stat.error());
  return stat && stat->starttime == starttime && stat->state != 'Z' && stat->state != 'X';
}

bool process_lives(pid_t pid, std::uint64_t starttime) {
  return is_process(pid, starttime).value_or(true);
}

Result<Directories> directories(const std::string& runtime, const std::string& state,
                                const std::string& config) {
  Directories out;
  out.runtime = UMWELT_TRY(directory(runtime, "--runtime-dir", "UMWELT_RUNTIME_DIR", out.runtime));
  out.state = UMWELT_TRY(directory(state, "--state-dir", "UMWELT_STATE_DIR", out.state));
  out.config = UMWELT_TRY(directory(config, "--config", "UMWELT_CONFIG", out.config));
  if (out.socket().size() >= sizeof(sockaddr_un::sun_path))
    return fail(ENAMETOOLONG, "runtime directory \"" + out.runtime + "\" for a unix socket");
  return out;
}

}  // namespace umwelt::container
