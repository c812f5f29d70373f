// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <signal.h>

#include <memory>

#include "cli/containers.h"
#include "cli/options.h"
#include "launch/launch.h"

namespace umwelt::cli {
namespace {

Result<int> rm(const Context& context, bool force, const Operands& names) {
  auto store = UMWELT_TRY(open_store(context.directories));
  return for_each_name(names, [&](const std::string& name) -> Result<void> {
    const auto launched = UMWELT_TRY(find_container(store, name));
    if (is_running(launched)) {
      if (!force)
        return fail(0, fmt::format("container {} is running: stop it first, or use --force",
                                   launched.spec.name));
      UMWELT_CHECK(launch::stop(launched, context.directories, SIGKILL, 0));
    }
    const auto removed = store.remove(launched.spec.id);
    // One that was started with --rm is gone with its last process.
    if (!removed && removed.error().code != ENOENT) return removed;
    return print(name + "\n");
  });
}

}  // namespace

void add_rm(CLI::App& app, Context& context) {
  auto force = std::make_shared<bool>(false);
  CLI::App* command = add_command(
      app, context,
      {.name = "rm",
       .summary = "Remove stopped containers: their state and their log",
       .operands = "NAME [NAME...]",
       .examples = "umwelt rm web\n"
                   "umwelt rm --force web              # kill it first\n",
       .min_operands = 1,
       .max_operands = kAnyNumber,
       .action = [&context, force](const Operands& names) { return rm(context, *force, names); }});
  add_flag(*command, "-f,--force", *force, "kill it first if it runs");
}

}  // namespace umwelt::cli
