// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <exception>
#include <iterator>
#include <string_view>

#include "base/file.h"
#include "cli/command_line.h"
#include "cli/completion.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "oci/hook.h"

namespace umwelt::cli {
namespace {

constexpr unsigned kMaxColumns = 100;

constexpr struct {
  std::string_view name;
  void (*declare)(CLI::App& app, Context& context);
} kCommands[] = {
    {"run", add_run},
    {"exec", add_exec},
    {"ps", add_ps},
    {"inspect", add_inspect},
    {"explain", add_explain},
    {"stats", add_stats},
    {"logs", add_logs},
    {"update", add_update},
    {"stop", add_stop},
    {"kill", add_kill},
    {"wait", add_wait},
    {"rm", add_rm},
    {"image", add_image},
    {"vdisk", add_vdisk},
    {"volume", add_volume},
    {"info", add_info},
    {"setup", add_setup},
    {"doctor", add_doctor},
    {"attach", add_attach},
    {"oci-hook", add_oci_hook},
    {"daemon", add_daemon},
    {"demo", add_demo},
    {"completion", add_completion},
};

struct GlobalOptions {
  std::string runtime_dir, state_dir, config;
};

// Where the first word is a command, that one alone: the options of all of them would cost
// 2 ms of each start.
void declare(CLI::App& app, Context& context, GlobalOptions& globals,
             const std::string& first_word) {
  app.require_subcommand(1);
  app.set_version_flag("--version", "umwelt " UMWELT_VERSION, "print the version");
  app.set_help_flag("-h,--help", "print this help");
  app.add_option("--runtime-dir", globals.runtime_dir,
                 "control socket and running containers (/run/umwelt, UMWELT_RUNTIME_DIR)")
      ->type_name("DIR");
  app.add_option("--state-dir", globals.state_dir,
                 "what outlives a reboot (/var/lib/umwelt, UMWELT_STATE_DIR)")
      ->type_name("DIR");
  app.add_option("--config", globals.config,
                 "configuration (/etc/umwelt/umwelt.toml, UMWELT_CONFIG)")
      ->type_name("FILE");
  const auto* named = std::find_if(std::begin(kCommands), std::end(kCommands),
                                   [&](const auto& command) { return command.name == first_word; });
  for (const auto* command = std::begin(kCommands); command != std::end(kCommands); ++command)
    if (named == std::end(kCommands) || command == named) command->declare(app, context);
}

const Command* command_of(const CommandLine& line, const Context& context) {
  const auto found = context.commands.find(line.command);
  return found == context.commands.end() ? nullptr : &found->second;
}

// docker's answer to a wrong command line of `run` and `exec` is 125 as well.
int usage_error(const CommandLine& line, const Context& context, const std::string& text) {
  print_error({0, text});
  const Command* command = command_of(line, context);
  return command != nullptr && command->failure_code != kExitFailure ? command->failure_code
                                                                     : kExitUsage;
}

int show(const std::string& text) {
  const auto shown = print(text);
  if (!shown && shown.error().code != EPIPE) print_error(shown.error());
  return shown ? 0 : kExitFailure;
}

int show_help(const CommandLine& line, const Context& context) {
  return show(render_help(*line.command, context, std::min(terminal_columns(), kMaxColumns)));
}

Result<void> check_operands(const CommandLine& line, const Command& command) {
  const std::string prefix = error_prefix(*line.command);
  if (line.operands.size() < command.min_operands)
    return fail(0, fmt::format("{}{} is missing; see {} --help", prefix, command.operands,
                               full_name(*line.command)));
  if (line.operands.size() > command.max_operands)
    return fail(0, command.max_operands == 0
                       ? fmt::format("{}takes no arguments", prefix)
                       : fmt::format("{}takes {} only", prefix, command.operands));
  return {};
}

int act(const Command& command, const CommandLine& line, const Context& context) {
  const auto exit_code = command.action(line.operands);
  if (exit_code) return *exit_code;
  const Error& error = exit_code.error();
  if (error.code == kWrongUsage) return usage_error(line, context, error.text);
  if (error.code != EPIPE) print_error(error);
  return command.failure_code;
}

int run(std::vector<std::string> arguments) {
  const mode_t umask = ::umask(022);  // what is made for containers is for all their users
  // Before all else: it is on the way of every container's start.
  if (!arguments.empty() && arguments[0] == "oci-hook" && !arguments.back().starts_with('-'))
    return oci::run_hook({arguments.begin() + 1, arguments.end()});

  CLI::App app("Runs commands in containers that see their own CPUs, memory, load and uptime",
               "umwelt");
  Context context;
  context.umask = umask;
  GlobalOptions globals;
  declare(app, context, globals, arguments.empty() ? std::string() : arguments[0]);

  if (!arguments.empty() && arguments[0] == "__complete") {
    arguments.erase(arguments.begin());
    if (auto directories = container::directories("", "", ""))
      context.directories = *std::move(directories);
    return show(render_completion(complete(app, context, arguments)));
  }
  // "umwelt help run" is "umwelt run --help".
  if (arguments.empty()) arguments = {"--help"};
  if (arguments[0] == "help") {
    arguments.erase(arguments.begin());
    arguments.emplace_back("--help");
  }

  CommandLine line;
  if (const auto split = split_command_line(app, context, arguments, line); !split)
    return usage_error(line, context, split.error().text);
  try {
    app.parse(std::vector<std::string>(line.words.rbegin(), line.words.rend()));
  } catch (const CLI::CallForHelp&) {
    return show_help(line, context);
  } catch (const CLI::CallForVersion& version) {
    return show(fmt::format("{}\n", version.what()));
  } catch (const CLI::RequiredError&) {
    return usage_error(line, context,
                       fmt::format("{}a command is missing; see {} --help",
                                   error_prefix(*line.command), full_name(*line.command)));
  } catch (const CLI::ParseError& error) {
    return usage_error(line, context, error_prefix(*line.command) + error.what());
  }

  auto directories = container::directories(globals.runtime_dir, globals.state_dir, globals.config);
  if (!directories) return usage_error(line, context, directories.error().message());
  context.directories = *std::move(directories);
  // One that was asked for must be there.
  const std::string& config = context.directories.config;
  if (config != container::Directories{}.config && ::access(config.c_str(), F_OK) != 0)
    return usage_error(line, context,
                       fmt::format("configuration {}: {}; --config or UMWELT_CONFIG names it",
                                   config, std::strerror(errno)));
  const Command* command = command_of(line, context);  // CLI11 required one
  if (const auto checked = check_operands(line, *command); !checked)
    return usage_error(line, context, checked.error().text);
  return act(*command, line, context);
}

}  // namespace
}  // namespace umwelt::cli

int main(int argc, char** argv) {
  umwelt::open_standard_descriptors();
  // A closed pipe (`umwelt ps | head -1`) is an error of write(2), not the end of a clean-up. A
  // handler and not SIG_IGN: that would be inherited by what `run` and `exec` execute.
  ::signal(SIGPIPE, [](int) {});
  try {
    return umwelt::cli::run(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {
    umwelt::cli::print_error({0, error.what()});
    return umwelt::cli::kExitFailure;
  }
}
