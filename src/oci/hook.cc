// SPDX-License-Identifier: Apache-2.0
#include "oci/hook.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "container/json_fields.h"
#include "control/client.h"
#include "intercept/paths.h"
#include "intercept/process_state.h"
#include "intercept/request.h"
#include "launch/attach.h"
#include "oci/bundle.h"

namespace umwelt::oci {
namespace {

constexpr std::size_t kMaxStateBytes = 1U << 20;
constexpr std::size_t kMaxHostname = 64;
constexpr std::chrono::milliseconds kPatience{3000};

struct State {
  std::string id, bundle;
  pid_t pid = 0;
};

Result<std::string> read_stdin() {
  std::string text;
  std::array<char, 16384> part{};
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, part.data(), part.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read the container's state");
    if (n == 0) return text;
    text.append(part.data(), static_cast<std::size_t>(n));
    if (text.size() > kMaxStateBytes) return fail(EFBIG, "the container's state");
  }
}

Result<State> parse_state(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return fail(EINVAL, "the container's state is no JSON object");
  State state;
  UMWELT_CHECK(container::read_field(json, "id", state.id));
  UMWELT_CHECK(container::read_field(json, "bundle", state.bundle));
  UMWELT_CHECK(container::read_field(json, "pid", state.pid));
  if (state.id.empty() || state.bundle.empty() || state.bundle.front() != '/')
    return fail(EINVAL, "the container's state has no id or no absolute bundle");
  return state;
}

std::string hostname_of(const JsonText& config) {
  const auto field = config.find(config.root(), "hostname");
  if (!field || *field == nullptr) return {};
  std::string name = config.string(**field).value_or("");
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) { return c > 0x20; });
  return plain && name.size() <= kMaxHostname ? name : std::string();
}

std::string shown_name(const std::string& docker_name, const std::string& id) {
  return container::valid_id(docker_name) ? docker_name : record_id(id);
}

Result<void> create_runtime(const State& state, const JsonText& config, const Choice& choice,
                            const std::string& name, const container::Directories& directories) {
  const std::string root = UMWELT_TRY(root_of(state.bundle, config));
  container::Record record;
  record.id = record_id(state.id);
  record.name = shown_name(name, state.id);
  record.hostname = hostname_of(config);
  record.init_pid = state.pid;
  record.init_starttime = UMWELT_TRY(container::read_starttime(state.pid));
  record.policy = choice.policy;
  const auto calls = intercept::call_names();
  record.policy.affinity_virtualised = notifies_all(
      config, intercept::socket_path(directories.runtime), {calls.begin(), calls.end()});
  UMWELT_TRY(admit(std::move(record), directories, choice.views, root));
  return {};
}

// The id of a container where another runtime has one of that name.
std::string second_id(const std::string& id, pid_t init_pid) {
  return id.substr(0, 50) + "-" + std::to_string(init_pid);
}

// Where two runtimes have the same id, the latest.
Result<container::Record> find_record(control::Client& client, const std::string& runtime_id) {
  const std::string id = record_id(runtime_id);
  std::optional<container::Record> found;
  for (container::Record& record : UMWELT_TRY(client.list()))
    if (is_record_of(record, id)) found = std::move(record);
  if (!found) return fail(ENOENT, "container " + id + " is not registered");
  return *std::move(found);
}

Result<void> create_container(const State& state, const JsonText& config,
                              const container::Directories& directories) {
  const std::string root = UMWELT_TRY(root_of(state.bundle, config));
  auto client = UMWELT_TRY(control::Client::connect(directories.socket(), kPatience));
  const auto record = UMWELT_TRY(find_record(client, state.id));
  UMWELT_TRY(launch::attach_views_here(record, directories, root));
  return {};
}

bool has_time_namespace(pid_t pid) {
  struct stat theirs {
  }, ours{};
  return ::stat(("/proc/" + std::to_string(pid) + "/ns/time").c_str(), &theirs) == 0 &&
         ::stat("/proc/self/ns/time", &ours) == 0 && theirs.st_ino != ours.st_ino;
}

bool nobody_there(const container::Directories& directories, const Error& error) {
  return (error.code == ENOENT || error.code == ECONNREFUSED || error.code == ECONNRESET) &&
         !intercept::somebody_listens(directories.socket());
}

Result<int> run_stage(const std::string& stage, const container::Directories& directories) {
  const std::string text = UMWELT_TRY(read_stdin());
  const State state = UMWELT_TRY(parse_state(text));
  Choice choice;
  std::string name;
  const auto done = [&]() -> Result<void> {
    const JsonText config = UMWELT_TRY(read_config(state.bundle + "/config.json", choice, name));
    if (stage == "poststop") {  // the daemon sees the end by itself
      remove_mount_points(UMWELT_TRY(root_of(state.bundle, config)));
      return {};
    }
    if (choice.mode == Mode::kOff) return {};
    return stage == "createRuntime" ? create_runtime(state, config, choice, name, directories)
                                    : create_container(state, config, directories);
  }();
  if (stage == "poststop") return 0;
  if (done) return 0;
  const bool required = choice.mode == Mode::kRequired;
  report(directories, shown_name(name, state.id), consequence(directories, done.error(), required));
  return required ? 1 : 0;
}

}  // namespace

void remove_mount_points(const std::string& root) {
  const auto directory = open_at(AT_FDCWD, root, O_PATH | O_DIRECTORY);
  if (!directory) return;
  const auto run = open_in_root(directory->get(), "run", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!run) return;
  for (const char* name : {"container_info", "container_info.json"}) {
    struct stat status {};
    if (::fstatat(run->get(), name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(status.st_mode) &&
        status.st_size == 0)
      (void)::unlinkat(run->get(), name, 0);
  }
}

std::string record_id(std::string_view runtime_id) {
  if (container::valid_id(runtime_id)) return std::string(runtime_id);
  std::string id = "c";
  for (const char c : runtime_id.substr(0, 40))
    id += container::valid_id(std::string("a") + c) ? c : '_';
  return id + "-" + std::to_string(std::hash<std::string_view>{}(runtime_id));
}

bool is_record_of(const container::Record& record, const std::string& id) {
  return record.id == id || record.id == second_id(id, record.init_pid);
}

Result<Admitted> admit(container::Record record, const container::Directories& directories,
                       const std::vector<std::string>& views, const std::string& root,
                       std::chrono::milliseconds patience) {
  auto client = UMWELT_TRY(control::Client::connect(directories.socket(), kPatience));
  record.time_namespace = has_time_namespace(record.init_pid);
  const bool known = record.number != 0;
  auto added = client.add(record);
  if (!added && added.error().code == EEXIST) {
    record.id = second_id(record.id, record.init_pid);
    added = client.add(record);
  }
  if (!added) return fail(added.error());
  auto attached = [&]() -> Result<launch::Attached> {
    if (!known || !views.empty()) UMWELT_CHECK(launch::keep_choice(added->id, views, directories));
    return launch::attach_views(*added, directories, root, patience);
  }();
  if (!attached) {
    if (attached.error().code != ETIMEDOUT && !known) (void)client.remove(added->id);
    return fail(attached.error());
  }
  return Admitted{*std::move(added), *std::move(attached)};
}

std::string consequence(const container::Directories& directories, const Error& error,
                        bool required) {
  std::string text = error.message();
  if (nobody_there(directories, error)) text += " (umweltd does not run: 'umwelt daemon start')";
  return text + (required ? "; it asks for umwelt=required and is not started"
                          : "; it starts with the host's files");
}

void report(const container::Directories& directories, std::string_view container,
            std::string_view text) {
  const time_t now = ::time(nullptr);
  tm utc{};
  std::array<char, 32> stamp{};
  ::strftime(stamp.data(), stamp.size(), "%FT%TZ ", ::gmtime_r(&now, &utc));
  std::string line = "umwelt: container " + std::string(container) + ": " + std::string(text);
  std::replace_if(
      line.begin(), line.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; }, '?');
  line += '\n';
  (void)!::write(STDERR_FILENO, line.data(), line.size());
  line.insert(0, stamp.data());
  // A runtime keeps its hooks' stderr to itself, and where no daemon ever ran there is no folder.
  (void)make_directories(directories.runtime);
  const auto log = open_at(AT_FDCWD, directories.runtime + "/oci.log",
                           O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0640);
  if (log) (void)!::write(log->get(), line.data(), line.size());
}

int run_hook(const std::vector<std::string>& arguments) {
  std::string stage, runtime, state;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const bool more = i + 1 < arguments.size();
    if (arguments[i] == "--runtime-dir" && more)
      runtime = arguments[++i];
    else if (arguments[i] == "--state-dir" && more)
      state = arguments[++i];
    else
      stage = arguments[i];
  }
  const auto directories = container::directories(runtime, state, "");
  if (!directories ||
      (stage != "createRuntime" && stage != "createContainer" && stage != "poststop")) {
    constexpr std::string_view kUsage =
        "umwelt: oci-hook: give one of createRuntime, createContainer, poststop\n";
    (void)!::write(STDERR_FILENO, kUsage.data(), kUsage.size());
    return 2;
  }
  const auto code = run_stage(stage, *directories);
  if (code) return *code;
  const bool starts = stage != "poststop";
  report(*directories, "?",
         code.error().message() + (starts ? "; it starts with the host's files" : ""));
  return 0;
}

}  // namespace umwelt::oci
