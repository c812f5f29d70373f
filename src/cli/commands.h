// SPDX-License-Identifier: Apache-2.0
// The subcommands of `umwelt`: one add_ function and one file each. An add_ function declares the
// options; the command's action runs after the whole command line was found good.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "container/record.h"

namespace CLI {
class App;
}

namespace umwelt::cli {

inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

// Of an action that finds the command line wrong: it ends as if it could not be parsed.
inline constexpr int kWrongUsage = -1;
inline tl::unexpected<Error> fail_usage(std::string text) {
  return fail(kWrongUsage, std::move(text));
}

// What stands on the command line beside options, unchanged: CLI11 never sees these words, since
// it takes "[a,b]" and "" for more than text.
using Operands = std::vector<std::string>;
inline constexpr std::size_t kAnyNumber = static_cast<std::size_t>(-1);

struct Command {
  std::string name;
  std::string summary;        // one line, no full stop
  std::string operands = {};  // as --help shows them: "NAME [NAME...]"
  std::string examples = {};  // lines, shown by --help as they are
  std::size_t min_operands = 0;
  std::size_t max_operands = 0;
  bool options_end_at_operand = false;  // run, exec: what follows belongs to the command inside
  // The exit code. An Error is printed as one line ("umwelt: ...") and ends with failure_code, that
  // of fail_usage() as any wrong command line.
  std::function<Result<int>(const Operands& operands)> action;
  int failure_code = kExitFailure;  // run, exec: 125, also for a wrong command line
};

struct Context {
  container::Directories directories;           // filled in before an action runs
  mode_t umask = 022;                           // the caller's, for a file that is the caller's own
  std::map<const CLI::App*, Command> commands;  // by add_command()
};

// Makes the subcommand; the caller adds its options to what is returned. Options are bound to
// variables that live in a shared_ptr which the action holds as well.
CLI::App* add_command(CLI::App& app, Context& context, Command command);
// A command that only has commands below it: "daemon" of "daemon start".
CLI::App* add_group(CLI::App& app, const std::string& name, const std::string& summary);

void add_daemon(CLI::App& app, Context& context);
void add_completion(CLI::App& app, Context& context);
void add_demo(CLI::App& app, Context& context);
void add_exec(CLI::App& app, Context& context);
void add_explain(CLI::App& app, Context& context);
void add_image(CLI::App& app, Context& context);
void add_info(CLI::App& app, Context& context);
void add_inspect(CLI::App& app, Context& context);
void add_kill(CLI::App& app, Context& context);
void add_logs(CLI::App& app, Context& context);
void add_ps(CLI::App& app, Context& context);
void add_rm(CLI::App& app, Context& context);
void add_run(CLI::App& app, Context& context);
void add_stats(CLI::App& app, Context& context);
void add_stop(CLI::App& app, Context& context);
void add_update(CLI::App& app, Context& context);
void add_vdisk(CLI::App& app, Context& context);
void add_volume(CLI::App& app, Context& context);
void add_wait(CLI::App& app, Context& context);

}  // namespace umwelt::cli
