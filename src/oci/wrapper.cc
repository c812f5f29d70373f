// SPDX-License-Identifier: Apache-2.0
#include "oci/wrapper.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "base/file.h"
#include "base/parse.h"
#include "container/record.h"
#include "intercept/paths.h"
#include "intercept/process_state.h"
#include "intercept/request.h"
#include "intercept/stand_in.h"
#include "oci/bundle.h"
#include "oci/hook.h"

namespace umwelt::oci {
namespace {

constexpr int kExitFailure = 1;
constexpr const char* kFallbackPath =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// Options of runc and crun whose value is the next argument.
constexpr std::string_view kWithValue[] = {"--root",           "--log",      "--log-format",
                                           "--log-level",      "--criu",     "--rootless",
                                           "--cgroup-manager", "--bundle",   "-b",
                                           "--console-socket", "--pid-file", "--preserve-fds",
                                           "--config",         "-f"};

bool takes_value(std::string_view option) {
  return std::find(std::begin(kWithValue), std::end(kWithValue), option) != std::end(kWithValue);
}

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

std::vector<std::string> split(std::string_view list, char separator) {
  std::vector<std::string> out;
  while (!list.empty()) {
    const std::string_view part = next_part(list, separator);
    if (!part.empty()) out.emplace_back(part);
  }
  return out;
}

bool same_file(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

std::string find_program(const std::string& name) {
  struct stat self {};
  if (::stat("/proc/self/exe", &self) != 0) return {};
  const char* path = std::getenv("PATH");
  for (const std::string& folder :
       split(std::string(path == nullptr ? "" : path) + ":" + kFallbackPath, ':')) {
    const std::string candidate = folder + "/" + name;
    struct stat status {};
    if (::stat(candidate.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
        !same_file(status, self) && ::access(candidate.c_str(), X_OK) == 0)
      return candidate;
  }
  return {};
}

std::string own_path() {
  char path[PATH_MAX];
  const ssize_t size = ::readlink("/proc/self/exe", path, sizeof path);
  return size > 0 ? std::string(path, static_cast<std::size_t>(size)) : std::string();
}

// Runtimes refuse to start a container whose listener is not there. Not only who has the listeners'
// socket: without a daemon that may be a stand-in.
bool answers_syscalls(const container::Directories& directories) {
  return intercept::somebody_listens(directories.socket()) &&
         intercept::somebody_listens(intercept::socket_path(directories.runtime));
}

Additions additions_for(const RuntimeCommand& command, const Choice& choice,
                        const container::Directories& directories) {
  Additions additions;
  additions.hook = {own_path(), "oci-hook"};
  const container::Directories usual;
  if (directories.runtime != usual.runtime)
    additions.hook.insert(additions.hook.end(), {"--runtime-dir", directories.runtime});
  additions.former_listener = intercept::socket_path(directories.runtime);
  if (choice.intercept && answers_syscalls(directories))
    additions.seccomp_listener = additions.former_listener;
  additions.container_id = record_id(command.id);
  const auto names = intercept::call_names();
  additions.syscalls.assign(names.begin(), names.end());
  return additions;
}

Result<void> edit_bundle(const RuntimeCommand& command, const container::Directories& directories,
                         Choice& choice) {
  const std::string path = command.bundle + "/config.json";
  const std::string text = UMWELT_TRY(read_file(path, kMaxConfigBytes));
  const JsonText config = UMWELT_TRY(JsonText::parse(text));
  std::string name;
  UMWELT_CHECK(read_bundle_choice(config, choice, name));
  if (choice.mode == Mode::kOff) return {};
  const std::string edited =
      UMWELT_TRY(add_to_config(config, additions_for(command, choice, directories)));
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return fail_errno("stat " + path);
  if (edited != text) UMWELT_CHECK(replace_file(path, edited, status.st_mode & 07777, false));
  return {};
}

// False when the container must not be started.
bool prepare(const RuntimeCommand& command) {
  const auto directories = container::directories("", "", "");
  if (!directories) return true;
  if (command.name == "exec" || command.name == "start") {
    (void)intercept::start_stand_in(directories->runtime);  // the runtime says what is wrong
    return true;
  }
  Choice choice;
  const auto done = edit_bundle(command, *directories, choice);
  if (done) return true;
  const bool required = choice.mode == Mode::kRequired;
  report(*directories, record_id(command.id), consequence(*directories, done.error(), required));
  return !required;
}

}  // namespace

std::optional<RuntimeCommand> parse_runtime_command(const std::vector<std::string>& arguments) {
  RuntimeCommand command{"", ".", ""};
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    const bool option = word.size() > 1 && word.front() == '-';
    if (option && takes_value(word)) {
      if (++i < arguments.size() && (word == "--bundle" || word == "-b"))
        command.bundle = arguments[i];
    } else if (option) {
      if (word.starts_with("--bundle=")) command.bundle = word.substr(9);
    } else if (command.name.empty()) {
      if (word == "exec" || word == "start") return RuntimeCommand{word, ".", ""};
      if (word != "create" && word != "run") return std::nullopt;
      command.name = word;
    } else {
      command.id = word;
    }
  }
  if (command.id.empty()) return std::nullopt;
  return command;
}

Result<std::string> find_runtime(const std::string& program_name) {
  const char* given = std::getenv("UMWELT_OCI_RUNTIME");
  if (given != nullptr && given[0] == '/') return std::string(given);
  std::string_view name = base_name(program_name);
  if (name.starts_with("umwelt-")) name.remove_prefix(7);
  std::vector<std::string> names = {std::string(name)};
  if (name == "runtime") names = {"runc", "crun"};
  for (const std::string& candidate : names)
    if (std::string path = find_program(candidate); !path.empty()) return path;
  return fail(ENOENT, "an OCI runtime (" + names.front() + ") in PATH");
}

int run_wrapper(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  if (!arguments.empty() && arguments.front() == "oci-hook")
    return run_hook({arguments.begin() + 1, arguments.end()});
  if (arguments.size() > 0 && arguments.front() == "lxc-hook") return run_lxc_hook();
  const auto runtime = find_runtime(argc > 0 ? argv[0] : "umwelt-runtime");
  if (runtime) {
    const auto command = parse_runtime_command(arguments);
    if (command && !prepare(*command)) return kExitFailure;
    std::string name = *runtime;
    argv[0] = name.data();
    ::execv(runtime->c_str(), argv);
  }
  const std::string text =
      "umwelt-runtime: " +
      (runtime ? "execute " + *runtime + ": " + std::strerror(errno) : runtime.error().message()) +
      "\n";
  (void)!::write(STDERR_FILENO, text.data(), text.size());
  return kExitFailure;
}

}  // namespace umwelt::oci
