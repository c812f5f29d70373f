// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "cli/commands.h"
#include "cli/containers.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/run_options.h"
#include "control/client.h"
#include "launch/launch.h"

namespace umwelt::cli {
namespace {

struct ExecOptions {
  launch::ExecRequest request;
  EnvironmentOptions environment;
};

Result<int> exec(const Context& context, const ExecOptions& options, const Operands& operands) {
  const auto store = UMWELT_TRY(open_store(context.directories));
  const launch::Launched launched = UMWELT_TRY(find_running(store, operands.front()));
  launch::ExecRequest request = options.request;
  request.command.assign(operands.begin() + 1, operands.end());
  request.environment = launched.spec.environment;
  for (std::string& variable : UMWELT_TRY(read_environment(options.environment)))
    request.environment.push_back(std::move(variable));
  if (request.workdir.empty()) request.workdir = launched.spec.workdir;
  if (request.user.empty()) request.user = launched.spec.user;
  // It answers the syscalls of what is begun now.
  if (launched.spec.policy.affinity_virtualised)
    UMWELT_TRY(control::connect_or_start(context.directories));
  const auto outcome = UMWELT_TRY(launch::exec(launched, context.directories, request));
  if (!outcome.note.empty()) print_note(outcome.note);
  return outcome.exit_code;
}

}  // namespace

void add_exec(CLI::App& app, Context& context) {
  auto options = std::make_shared<ExecOptions>();
  launch::ExecRequest& request = options->request;
  CLI::App* command = add_command(
      app, context,
      {.name = "exec",
       .summary = "Run another command in a running container",
       .operands = "NAME COMMAND [ARGUMENT...]",
       .examples = "umwelt exec web nginx -s reload\n"
                   "umwelt exec -it web sh\n"
                   "umwelt exec --user nobody --env DEBUG=1 web ./check\n",
       .min_operands = 2,
       .max_operands = kAnyNumber,
       .options_end_at_operand = true,
       .action = [&context,
                  options](const Operands& operands) { return exec(context, *options, operands); },
       .failure_code = launch::kExitLauncher});
  add_environment_options(*command, options->environment);
  add_parsed(
      *command, "-w,--workdir", "DIR", parse_absolute_path,
      [&request](std::string path) { request.workdir = std::move(path); },
      "working directory (the container's)");
  add_text(*command, "-u,--user", "USER[:GROUP]", request.user,
           "user, and group (the container's)");
  add_flag(*command, "-t,--tty", request.tty, "give it a terminal");
  add_flag(*command, "-i,--interactive", request.interactive, "pass stdin on");
  add_flag(*command, "-d,--detach", request.detach, "do not wait for it");
}

}  // namespace umwelt::cli
