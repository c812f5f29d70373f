// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/containers.h"
#include "cli/options.h"

namespace umwelt::cli {
namespace {

Result<int> wait(const Context& context, bool json, const Operands& names) {
  auto store = UMWELT_TRY(open_store(context.directories));
  nlohmann::json ends = nlohmann::json::array();
  const auto wait_for = [&](const std::string& name) -> Result<void> {
    const auto launched = UMWELT_TRY(find_container(store, name));
    auto end = [&] {
      const Progress progress(fmt::format("waiting for {}", launched.spec.name));
      return wait_until_stopped(store, launched, -1);
    }();
    if (!end) return fail(end.error());
    const std::optional<launch::Launched>& stopped = *end;
    if (!stopped || !stopped->exit_code)
      return fail(
          0, fmt::format("container {} is gone and its exit code with it", launched.spec.name));
    if (!json) return print(fmt::format("{}\n", *stopped->exit_code));
    ends.push_back({{"id", stopped->spec.id},
                    {"name", stopped->spec.name},
                    {"exit_code", *stopped->exit_code},
                    {"oom_killed", stopped->oom_killed}});
    return {};
  };
  const int exit_code = UMWELT_TRY(for_each_name(names, wait_for));
  if (json) UMWELT_CHECK(print_json(ends));
  return exit_code;
}

}  // namespace

void add_wait(CLI::App& app, Context& context) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command = add_command(
      app, context,
      {.name = "wait",
       .summary = "Wait until containers have ended and print their exit codes",
       .operands = "NAME [NAME...]",
       .examples = "umwelt wait job\n"
                   "umwelt run --detach --name job -- make test && umwelt wait job\n",
       .min_operands = 1,
       .max_operands = kAnyNumber,
       .action = [&context, json](const Operands& names) { return wait(context, *json, names); }});
  add_flag(*command, "--json", *json, "print JSON");
}

}  // namespace umwelt::cli
