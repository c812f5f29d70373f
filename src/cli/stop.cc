// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <signal.h>

#include <memory>

#include "base/parse.h"
#include "cli/containers.h"
#include "cli/options.h"
#include "launch/launch.h"

namespace umwelt::cli {
namespace {

struct Options {
  int signal = SIGTERM;
  unsigned grace_s = 10;
};

Result<unsigned> parse_grace(std::string_view text) {
  const auto seconds = parse_u64(text);
  if (!seconds || *seconds > 86400)
    return fail(
        0, fmt::format("'{}' is not a number of seconds from 0 to 86400", printable(text, 60)));
  return static_cast<unsigned>(*seconds);
}

Result<int> stop(const Context& context, const Options& options, const Operands& names) {
  auto store = UMWELT_TRY(open_store(context.directories));
  return for_each_name(names, [&](const std::string& name) -> Result<void> {
    const auto launched = UMWELT_TRY(find_container(store, name));
    if (is_running(launched)) {
      const Progress progress(fmt::format("stopping {}", launched.spec.name));
      UMWELT_CHECK(launch::stop(launched, context.directories, options.signal, options.grace_s));
    }
    return print(name + "\n");
  });
}

}  // namespace

void add_stop(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      add_command(app, context,
                  {.name = "stop",
                   .summary = "Stop running containers: SIGTERM, then after a grace time SIGKILL",
                   .operands = "NAME [NAME...]",
                   .examples = "umwelt stop web\n"
                               "umwelt stop --time 2 web db        # 2 seconds until SIGKILL\n"
                               "umwelt stop $(umwelt ps -q)        # all of them\n",
                   .min_operands = 1,
                   .max_operands = kAnyNumber,
                   .action = [&context, options](const Operands& names) {
                     return stop(context, *options, names);
                   }});
  add_parsed(
      *command, "-t,--time", "SECONDS", parse_grace,
      [options](unsigned s) { options->grace_s = s; }, "grace until SIGKILL (10)");
  add_parsed(
      *command, "-s,--signal", "SIGNAL", parse_signal, [options](int s) { options->signal = s; },
      "what to send first (TERM)");
}

}  // namespace umwelt::cli
