// SPDX-License-Identifier: Apache-2.0
// The input is a command line, one word a line.
#include <CLI/CLI.hpp>

#include "base/parse.h"
#include "cli/command_line.h"
#include "cli/options.h"
#include "targets.h"

namespace {

using namespace umwelt;

struct Values {
  cli::LimitOptions limits;
  view::Policy policy;
  std::string text;
  std::vector<std::string> list;
  bool flag = false;
};

void add_commands(CLI::App& app, cli::Context& context, Values& values) {
  app.add_option("--runtime-dir", values.text);
  CLI::App* run = cli::add_command(app, context,
                                   {.name = "run",
                                    .summary = "Run",
                                    .operands = "[--] COMMAND [ARG...]",
                                    .max_operands = 1000,
                                    .options_end_at_operand = true,
                                    .action = {}});
  cli::add_limit_options(*run, values.limits);
  cli::add_policy_options(*run, values.policy);
  run->add_option("-e,--env", values.list);
  run->add_flag("-i,--interactive", values.flag);
  CLI::App* stop = cli::add_command(
      app, context,
      {.name = "stop", .summary = "Stop", .operands = "NAME", .max_operands = 9, .action = {}});
  stop->add_option("-t,--time", values.text);
}

}  // namespace

int fuzz_cli_command_line(const std::uint8_t* data, std::size_t size) {
  std::vector<std::string> words;
  std::string_view rest = fuzz::text_of(data, size);
  while (auto line = next_line(rest)) words.emplace_back(*line);

  CLI::App app{"Fuzz", "umwelt"};
  cli::Context context;
  Values values;
  add_commands(app, context, values);
  cli::CommandLine line;
  const auto split = cli::split_command_line(app, context, words, line);
  if (!split) {
    FUZZ_CHECK(!split.error().text.empty());
    return 0;
  }
  // As main() does it: CLI11 takes the words from the last to the first.
  std::vector<std::string> reversed(line.words.rbegin(), line.words.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::Error&) {
    return 0;
  }
  (void)cli::resource_limits(values.limits);
  return 0;
}
