// SPDX-License-Identifier: Apache-2.0
#include "oci/wrapper.h"

#include <fcntl.h>
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
#include "intercept/room.h"
#include "intercept/stand_in.h"
#include "oci/bundle.h"
#include "oci/hook.h"
#include "oci/notify_support.h"
#include "oci/rewrite.h"

namespace umwelt::oci {
namespace {

constexpr int kExitFailure = 1;
constexpr const char* kFallbackPath =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// Options of runc and crun that have a value.
constexpr std::string_view kWithValue[] = {"root",
                                           "log",
                                           "log-format",
                                           "log-level",
                                           "criu",
                                           "rootless",
                                           "cgroup-manager",
                                           "bundle",
                                           "console-socket",
                                           "pid-file",
                                           "preserve-fds",
                                           "config",
                                           "f"};

struct Option {
  std::string_view name;  // may be the beginning of one
  std::optional<std::string_view> value;
};
Option parse_option(std::string_view word, Options options) {
  const bool one_dash = !word.starts_with("--");
  word.remove_prefix(one_dash ? 1 : 2);
  if (one_dash && options == Options::kGetopt) {
    if (word.size() == 1) return {word, std::nullopt};
    return {word.substr(0, 1), word.substr(1)};
  }
  const std::size_t equals = word.find('=');
  if (equals == word.npos) return {word, std::nullopt};
  return {word.substr(0, equals), word.substr(equals + 1)};
}

// The option that is meant; "": none that has a value.
std::string_view known_option(std::string_view name) {
  const auto found = std::find_if(
      std::begin(kWithValue), std::end(kWithValue),
      [&](std::string_view known) { return !name.empty() && known.starts_with(name); });
  return found == std::end(kWithValue) ? std::string_view() : *found;
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

// A program, and another one than this.
bool is_runtime(const std::string& path) {
  struct stat self {
  }, status{};
  return ::stat("/proc/self/exe", &self) == 0 && ::stat(path.c_str(), &status) == 0 &&
         S_ISREG(status.st_mode) && !same_file(status, self) && ::access(path.c_str(), X_OK) == 0;
}

std::string find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  for (const std::string& folder :
       split(std::string(path == nullptr ? "" : path) + ":" + kFallbackPath, ':')) {
    const std::string candidate = folder + "/" + name;
    if (is_runtime(candidate)) return candidate;
  }
  return {};
}

std::string read_link(const std::string& link) {
  char path[PATH_MAX];
  const ssize_t size = ::readlink(link.c_str(), path, sizeof path);
  return size > 0 ? std::string(path, static_cast<std::size_t>(size)) : std::string();
}

// Runtimes refuse to start a container whose listener is not there. Not only who has the listeners'
// socket: without a daemon that may be a stand-in.
bool answers_syscalls(const container::Directories& directories) {
  return intercept::somebody_listens(directories.socket()) &&
         intercept::somebody_listens(intercept::socket_path(directories.runtime));
}

// What is answered must be what the files say: of all that system calls tell of.
bool files_agree(const Choice& choice) {
  const auto& views = choice.views;
  constexpr std::string_view kTold[] = {"cpu", "memory", "load", "uptime"};
  return views.empty() || std::all_of(std::begin(kTold), std::end(kTold), [&](auto group) {
           return std::find(views.begin(), views.end(), group) != views.end();
         });
}

// Once until the next boot: it would be said at every container's start.
void report_once(const container::Directories& directories, const std::string& marker,
                 const std::string& container, const std::string& reason) {
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL;
  if (open_at(AT_FDCWD, directories.runtime + "/" + marker, kFlags, 0600))
    report(directories, container,
           reason + "; the kernel answers its system calls, and those of later ones");
}

// Where the container's listener is handed over; "": it has none.
std::string listener_for(const std::string& runtime, const RuntimeCommand& command,
                         const Choice& choice, const container::Directories& directories) {
  if (choice.mode == Mode::kOff || !choice.intercept || !files_agree(choice) ||
      !answers_syscalls(directories))
    return {};
  const std::string container = record_id(command.id);
  if (const auto room = intercept::check_room_for_listener(); !room) {
    report_once(directories, "no-room-for-listener", container, room.error().message());
    return {};
  }
  const auto known = knows_notify(runtime, directories.runtime + "/oci-runtimes");
  if (known && *known) return intercept::socket_path(directories.runtime);
  if (known)
    report_once(directories, "no-listener-for-" + std::string(base_name(runtime)), container,
                runtime + " does not know SCMP_ACT_NOTIFY");
  else  // later ones ask again
    report(directories, container,
           known.error().message() + "; the kernel answers its system calls");
  return {};
}

Additions additions_for(const std::string& runtime, const RuntimeCommand& command,
                        const Choice& choice, const container::Directories& directories) {
  Additions additions;
  additions.hook = {program_path(), "oci-hook"};
  const container::Directories usual;
  if (directories.runtime != usual.runtime)
    additions.hook.insert(additions.hook.end(), {"--runtime-dir", directories.runtime});
  additions.former_listener = intercept::socket_path(directories.runtime);
  additions.seccomp_listener = listener_for(runtime, command, choice, directories);
  additions.container_id = record_id(command.id);
  const auto names = intercept::call_names();
  additions.syscalls.assign(names.begin(), names.end());
  return additions;
}

Result<void> edit_bundle(const std::string& runtime, const RuntimeCommand& command,
                         const container::Directories& directories, Choice& choice) {
  const std::string path = command.bundle + "/config.json";
  std::string name;
  const JsonText config =
      UMWELT_TRY(read_config(command.config.empty() ? path : command.config, choice, name));
  const bool off = choice.mode == Mode::kOff;
  if (!command.config.empty()) {
    // The hooks, which are told of the bundle alone, would read another one.
    return off ? Result<void>() : fail(ENOTSUP, "--config " + command.config);
  }
  // Bundles may be started again, and what was added once needs a daemon.
  const Additions additions = additions_for(runtime, command, choice, directories);
  const std::string edited =
      UMWELT_TRY(off ? remove_from_config(config, additions) : add_to_config(config, additions));
  return edited == config.edited() ? Result<void>() : rewrite_file(path, edited, false);
}

// False when the container must not be started.
bool prepare(const std::string& runtime, const RuntimeCommand& command) {
  const auto directories = container::directories("", "", "");
  if (!directories) return true;
  if (command.name == "exec" || command.name == "start") {
    (void)intercept::start_stand_in(directories->runtime);  // the runtime says what is wrong
    return true;
  }
  Choice choice;
  const auto done = edit_bundle(runtime, command, *directories, choice);
  if (done) return true;
  const bool required = choice.mode == Mode::kRequired;
  report(*directories, record_id(command.id), consequence(*directories, done.error(), required));
  return !required;
}

}  // namespace

std::optional<RuntimeCommand> parse_runtime_command(const std::vector<std::string>& arguments,
                                                    Options options) {
  RuntimeCommand command{"", ".", "", ""};
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (word.size() > 1 && word.front() == '-') {
      const Option option = parse_option(word, options);
      const std::string_view name = known_option(option.name);
      if (name.empty() || (!option.value && ++i == arguments.size())) continue;
      const std::string value(option.value.value_or(arguments[i]));
      if (name == "bundle") command.bundle = value;
      if (options == Options::kGetopt && (name == "config" || name == "f")) command.config = value;
    } else if (command.name.empty()) {
      if (word == "exec" || word == "start") return RuntimeCommand{word, ".", "", ""};
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
  const std::string real =
      program_name.starts_with('/') ? read_link(program_name + kRealRuntime) : std::string();
  if (!real.empty())
    return is_runtime(real) ? Result<std::string>(real) : fail(ENOENT, "an OCI runtime, " + real);
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
  if (arguments.size() > 0 && arguments.front() == "lxc-hook")
    return run_lxc_hook({arguments.begin() + 1, arguments.end()});
  const auto runtime = find_runtime(argc > 0 ? argv[0] : "umwelt-runtime");
  if (runtime) {
    const bool getopt = base_name(*runtime).starts_with("crun");
    const auto command = parse_runtime_command(arguments, getopt ? Options::kGetopt : Options::kGo);
    if (command && !prepare(*runtime, *command)) return kExitFailure;
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
