// SPDX-License-Identifier: Apache-2.0
#include "oci/setup.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "base/parse.h"
#include "cli/machine.h"
#include "cli/options.h"
#include "cli/output.h"

namespace umwelt::cli {
namespace {

struct SetupOptions {
  bool dry_run = false;
  bool undo = false;
  std::string file;
};

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (auto line = next_line(text)) lines.push_back(*line);
  return lines;
}

// The lines that differ, between what both texts begin and end with.
std::string difference(const std::string& path, const std::optional<std::string>& before,
                       const std::optional<std::string>& after) {
  const auto old = lines_of(before ? std::string_view(*before) : "");
  const auto now = lines_of(after ? std::string_view(*after) : "");
  std::size_t head = 0, tail = 0;
  while (head < std::min(old.size(), now.size()) && old[head] == now[head]) ++head;
  while (tail < std::min(old.size(), now.size()) - head &&
         old[old.size() - 1 - tail] == now[now.size() - 1 - tail])
    ++tail;
  std::string out = fmt::format("--- {}\n+++ {}\n@@ line {} @@\n", before ? path : "/dev/null",
                                after ? path : "/dev/null", head + 1);
  for (std::size_t i = head; i < old.size() - tail; ++i) out += fmt::format("-{}\n", old[i]);
  for (std::size_t i = head; i < now.size() - tail; ++i) out += fmt::format("+{}\n", now[i]);
  return out;
}

void say_reload(const oci::SetupPlan& plan) {
  if (!plan.reload.empty()) print_note("next: " + plan.reload);
}

Result<int> undo(const std::string& runtime, const SetupOptions& options,
                 const oci::SetupPaths& paths) {
  const auto steps = UMWELT_TRY(oci::plan_undo(runtime, paths));
  for (const oci::UndoStep& step : steps)
    UMWELT_CHECK(print(difference(step.path, step.now, step.then)));
  if (options.dry_run) return 0;
  UMWELT_CHECK(oci::apply_undo(runtime, steps, paths));
  if (const auto plan = oci::plan_setup(runtime, paths)) say_reload(*plan);
  if (runtime == "docker")
    print_note(
        "containers that were made since name the runtime \"umwelt\": make them again, or "
        "docker does not start them");
  return 0;
}

Result<int> setup(const Context& context, const SetupOptions& options, const Operands& operands) {
  const std::string& runtime = operands[0];
  const auto known = oci::setup_runtimes();
  if (std::find(known.begin(), known.end(), runtime) == known.end())
    return fail_usage(fmt::format("setup: '{}' is not one of {}", printable(runtime, 40),
                                  fmt::join(known, ", ")));
  oci::SetupPaths paths = UMWELT_TRY(oci::own_setup_paths(context.directories));
  if (!options.file.empty()) paths.file = std::filesystem::absolute(options.file);
  if (options.undo) return undo(runtime, options, paths);
  const oci::SetupPlan plan = UMWELT_TRY(oci::plan_setup(runtime, paths));
  if (plan.files.empty()) {
    print_note(runtime + " is set up already");
    return 0;
  }
  for (const oci::FileEdit& file : plan.files)
    UMWELT_CHECK(print(difference(file.path, file.before, file.after)));
  if (options.dry_run) return 0;
  UMWELT_CHECK(oci::apply_setup(runtime, plan, paths));
  say_reload(plan);
  for (const std::string& step : plan.next) print_note("next: " + step);
  return 0;
}

}  // namespace

void add_setup(CLI::App& app, Context& context) {
  auto options = std::make_shared<SetupOptions>();
  CLI::App* command =
      add_command(app, context,
                  {.name = "setup",
                   .summary = "Have a container runtime give every new container its files",
                   .operands = "docker|podman|containerd|crio|lxc|nspawn|cdi",
                   .examples = "umwelt setup docker --dry-run\n"
                               "umwelt setup docker\n"
                               "umwelt setup docker --undo\n",
                   .min_operands = 1,
                   .max_operands = 1,
                   .action = [&context, options](const Operands& operands) {
                     return setup(context, *options, operands);
                   }});
  add_flag(*command, "-n,--dry-run", options->dry_run,
           "print what would change, and change nothing");
  add_flag(*command, "--undo", options->undo, "put back what was there before");
  add_text(*command, "--file", "PATH", options->file,
           "the runtime's file (podman, crio: directory), when it is not the usual one");
}

}  // namespace umwelt::cli
