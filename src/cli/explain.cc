// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/containers.h"
#include "cli/options.h"

namespace umwelt::cli {
namespace {

using nlohmann::json;

std::string describe(const json& from) {
  std::string text = from.value("file", "");
  if (from.contains("line")) text += " " + from.value("line", "");
  if (from.contains("value")) text += " = " + from.value("value", "");
  return text;
}

// Tabs belong to some files: /proc/swaps has them in its heading.
std::string printable_line(std::string_view text) {
  std::string out;
  for (;;) {
    const std::size_t tab = text.find('\t');
    out += printable(text.substr(0, tab));
    if (tab == std::string_view::npos) return out;
    out += '\t';
    text.remove_prefix(tab + 1);
  }
}

// A line; below the last of lines that come from the same, where that is.
std::string render(const json& lines) {
  std::string text;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const json& line = lines[i];
    text += printable_line(line.value("text", "")) + "\n";
    if (i + 1 < lines.size() && lines[i + 1].at("from") == line.at("from") &&
        lines[i + 1].at("note") == line.at("note"))
      continue;
    for (const json& from : line.at("from")) text += "    <- " + printable(describe(from)) + "\n";
    if (const std::string note = line.value("note", ""); !note.empty())
      text += "    (" + note + ")\n";
  }
  return text;
}

struct Target {
  control::Client client;
  std::string id;
};

// Of the launcher's containers, else of another runtime's, which only a daemon that runs knows.
Result<Target> find_target(const Context& context, const std::string& name) {
  const launch::Store store = UMWELT_TRY(open_store(context.directories));
  const auto launched = find_container(store, name);
  if (launched) {
    UMWELT_TRY(find_running(store, name));
    Target target{UMWELT_TRY(control::connect_or_start(context.directories)), launched->spec.id};
    if (launched->spec.views == launch::Views::kNone && !target.client.resources(target.id))
      return fail(0, fmt::format("container {} has the machine's files: umwelt attach {} gives it "
                                 "its own",
                                 launched->spec.name, launched->spec.name));
    return target;
  }
  auto client = control::Client::connect(context.directories.socket());
  if (!client) return fail(launched.error());
  const auto records = UMWELT_TRY(client->list());
  const container::Record* record = find_registered(records, name);
  if (record == nullptr) return fail(launched.error());
  return Target{*std::move(client), record->id};
}

Result<Target> own_target(const Context& context) {
  return Target{UMWELT_TRY(control::connect_or_start(context.directories)), ""};
}

Result<int> explain(const Context& context, const Operands& operands, bool as_json) {
  if (!operands.back().starts_with('/'))
    return fail_usage(
        fmt::format("explain: FILE '{}' is not an absolute path, such as "
                    "/proc/meminfo",
                    printable(operands.back(), 60)));
  json request = {{"op", "explain"}, {"path", operands.back()}};
  const bool named = operands.size() == 2;
  Target target = UMWELT_TRY(named ? find_target(context, operands[0]) : own_target(context));
  if (named)
    request["id"] = target.id;
  else
    request["pid"] = ::getpid();
  const json reply = UMWELT_TRY(target.client.call(request));
  const json& lines = reply.at("lines");
  if (as_json)
    UMWELT_CHECK(print_json({{"path", operands.back()}, {"lines", lines}}));
  else
    UMWELT_CHECK(print(render(lines)));
  return 0;
}

}  // namespace

void add_explain(CLI::App& app, Context& context) {
  auto as_json = std::make_shared<bool>(false);
  CLI::App* command =
      add_command(app, context,
                  {.name = "explain",
                   .summary = "Print a file as a container sees it, and where each line comes from",
                   .operands = "[NAME] FILE",
                   .examples = "umwelt explain web /proc/meminfo\n"
                               "umwelt explain web /sys/devices/system/cpu/online\n"
                               "umwelt explain /proc/stat     # as it is here\n",
                   .min_operands = 1,
                   .max_operands = 2,
                   .action = [&context, as_json](const Operands& operands) {
                     return explain(context, operands, *as_json);
                   }});
  add_flag(*command, "--json", *as_json, "print JSON");
}

}  // namespace umwelt::cli
