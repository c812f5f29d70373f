// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include "base/file.h"
#include "base/parse.h"
#include "oci/hook.h"

namespace umwelt::oci {
namespace {

constexpr std::size_t kMaxConfigBytes = 1U << 20;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

struct Setting {
  std::string_view key, value;
};

// "lxc.environment = umwelt.views=cpu" lines (lxc.container.conf(5)).
std::vector<Setting> environment_of(std::string_view text) {
  std::vector<Setting> out;
  while (auto line = next_line(text)) {
    const std::size_t equals = line->find('=');
    if (equals == std::string_view::npos || trim(line->substr(0, equals)) != "lxc.environment")
      continue;
    const std::string_view setting = trim(line->substr(equals + 1));
    const std::size_t inner = setting.find('=');
    if (inner != std::string_view::npos)
      out.push_back({setting.substr(0, inner), setting.substr(inner + 1)});
  }
  return out;
}

// The mode first: an error in anything else must not open what is required.
Result<void> read_lxc_choice(const std::string& path, Choice& choice) {
  if (path.empty()) return {};
  const std::string text = UMWELT_TRY(read_file(path, kMaxConfigBytes));
  const auto settings = environment_of(text);
  Result<void> done;
  for (const Setting& setting : settings)
    if (setting.key == "umwelt")
      if (auto applied = apply_choice(setting.key, setting.value, choice); !applied) done = applied;
  for (const Setting& setting : settings)
    if (setting.key != "umwelt") UMWELT_CHECK(apply_choice(setting.key, setting.value, choice));
  return done;
}

// "dir:/path" or "/path"; of another storage there is no path, or nothing is mounted any more.
void clean_up_rootfs(const std::string& rootfs) {
  const std::string root = rootfs.substr(rootfs.starts_with("dir:") ? 4 : 0);
  if (root.starts_with('/')) remove_mount_points(root);
}

}  // namespace

int run_lxc_hook(const std::vector<std::string>& arguments) {
  const bool given = arguments.size() > 1 && arguments.front() == "--runtime-dir";
  const auto directories = container::directories(given ? arguments[1] : "", "", "");
  if (!directories) return 0;
  // Which hook it is LXC says in the last word, or, as lxc.hook.version has it, there.
  if (variable("LXC_HOOK_TYPE") == "post-stop" ||
      (!arguments.empty() && arguments.back() == "post-stop")) {
    clean_up_rootfs(variable("LXC_ROOTFS_PATH"));
    return 0;
  }
  const std::string name = variable("LXC_NAME");
  Choice choice;
  const auto done = [&]() -> Result<void> {
    UMWELT_CHECK(read_lxc_choice(variable("LXC_CONFIG_FILE"), choice));
    if (choice.mode == Mode::kOff) return {};
    const auto pid = parse_u64(variable("LXC_PID"));
    if (!pid || *pid == 0 || *pid > INT32_MAX) return fail(EINVAL, "LXC_PID is no process id");
    container::Record record;
    record.id = record_id(name);
    record.name = record.hostname = record.id;
    record.init_pid = static_cast<pid_t>(*pid);
    record.init_starttime = UMWELT_TRY(container::read_starttime(record.init_pid));
    record.policy = choice.policy;
    UMWELT_TRY(admit(std::move(record), *directories, choice.views));
    return {};
  }();
  if (done) return 0;
  const bool required = choice.mode == Mode::kRequired;
  report(*directories, record_id(name), consequence(*directories, done.error(), required));
  return required ? 1 : 0;
}

}  // namespace umwelt::oci
