// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>

#include "cli/containers.h"
#include "cli/options.h"
#include "launch/cgroup.h"

namespace umwelt::cli {
namespace {

constexpr int kPatienceMs = 10000;

Result<int> kill(const Context& context, int signal, const Operands& names) {
  auto store = UMWELT_TRY(open_store(context.directories));
  return for_each_name(names, [&](const std::string& name) -> Result<void> {
    const auto launched = UMWELT_TRY(find_running(store, name));
    const auto init = UMWELT_TRY(open_init(launched));
    if (::syscall(SYS_pidfd_send_signal, init.get(), signal, nullptr, 0) < 0)
      return fail_errno(fmt::format("sending signal {} to container {}", signal, name));
    // After the uncatchable one the next command finds it stopped.
    if (signal == SIGKILL) {
      launch::thaw(launched.spec.id);
      const Progress progress(fmt::format("waiting for the end of {}", launched.spec.name));
      UMWELT_TRY(wait_until_stopped(store, launched, kPatienceMs));
    }
    return print(name + "\n");
  });
}

}  // namespace

void add_kill(CLI::App& app, Context& context) {
  auto signal = std::make_shared<int>(SIGKILL);
  CLI::App* command = add_command(
      app, context,
      {.name = "kill",
       .summary = "Send a signal to the first process of running containers",
       .operands = "NAME [NAME...]",
       .examples = "umwelt kill web\n"
                   "umwelt kill --signal HUP web       # nginx reads its configuration again\n",
       .min_operands = 1,
       .max_operands = kAnyNumber,
       .action = [&context, signal](const Operands& names) {
         return kill(context, *signal, names);
       }});
  add_parsed(
      *command, "-s,--signal", "SIGNAL", parse_signal, [signal](int s) { *signal = s; },
      "a name or a number (KILL)");
}

}  // namespace umwelt::cli
