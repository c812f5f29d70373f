// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "base/parse.h"
#include "cli/command_line.h"

namespace umwelt::cli {
namespace {

struct Entry {
  std::string left, right;
};

// "      --cpus N", "  -m, --memory SIZE"
Entry entry(const CLI::Option& option) {
  std::string left = option.get_snames().empty() ? "    " : "-" + option.get_snames().front();
  for (const std::string& name : option.get_lnames()) {
    if (!trim(left).empty()) left += ", ";
    left += "--" + name;
  }
  if (option.get_items_expected_max() > 0) left += " " + option.get_type_name();
  return {left, option.get_description()};
}

std::string wrap(std::string_view text, std::size_t indent, std::size_t columns) {
  std::string out;
  std::size_t used = indent;
  while (true) {
    const std::string_view word = next_word(text);
    if (word.empty()) return out;
    if (used > indent && used + 1 + word.size() > columns) {
      out += "\n" + std::string(indent, ' ');
      used = indent;
    } else if (used > indent) {
      out += ' ';
      ++used;
    }
    out += word;
    used += word.size();
  }
}

struct Group {
  std::string title;
  std::vector<Entry> entries;
};

// One column of descriptions for all groups; what is longer has its description on the next line.
std::size_t left_width(const std::vector<Group>& groups) {
  constexpr std::size_t kMost = 28;
  std::size_t width = 0;
  for (const Group& group : groups)
    for (const Entry& e : group.entries)
      if (e.left.size() <= kMost) width = std::max(width, e.left.size());
  return width;
}

std::string render_entries(const Group& group, std::size_t width, unsigned columns) {
  const auto& [title, entries] = group;
  if (entries.empty()) return {};
  std::string out = fmt::format("\n{}:\n", title);
  for (const Entry& e : entries) {
    const std::size_t indent = width + 4;
    out += fmt::format("  {:<{}}", e.left, width);
    if (e.left.size() > width) out += "\n" + std::string(indent - 2, ' ');
    out += "  " + wrap(e.right, indent, columns) + "\n";
  }
  return out;
}

std::vector<Entry> option_entries(const CLI::App& app, const std::string& group) {
  std::vector<Entry> entries;
  for (const CLI::Option* option : app.get_options())
    if (option->nonpositional() && option->get_group() == group) entries.push_back(entry(*option));
  return entries;
}

}  // namespace

std::string render_help(const CLI::App& app, const Context& context, unsigned columns) {
  const auto found = context.commands.find(&app);
  const bool has_commands = !app.get_subcommands({}).empty();
  std::string out = "Usage: " + full_name(app) + " [OPTIONS]";
  if (has_commands) out += " COMMAND";
  if (found != context.commands.end() && !found->second.operands.empty())
    out += " " + found->second.operands;
  out += "\n\n" + wrap(app.get_description(), 0, columns) + "\n";

  std::vector<Group> groups(1, {"Commands", {}});
  for (const CLI::App* command : app.get_subcommands({}))
    groups.front().entries.push_back({command->get_name(), command->get_description()});
  for (const std::string& name : app.get_groups())
    if (!name.empty()) groups.push_back({name, option_entries(app, name)});
  const std::size_t width = left_width(groups);
  for (const Group& group : groups) out += render_entries(group, width, columns);
  if (has_commands)
    out += "\nOptions and examples of a command: " + full_name(app) + " COMMAND --help\n";
  if (app.get_parent() != nullptr) {
    const CLI::App* root = app.get_parent();
    while (root->get_parent() != nullptr) root = root->get_parent();
    out += "\nGlobal options (--runtime-dir and others): " + root->get_name() + " --help\n";
  }
  if (found != context.commands.end() && !found->second.examples.empty()) {
    out += "\nExamples:\n";
    std::string_view rest = found->second.examples;
    while (const auto line = next_line(rest)) out += fmt::format("  {}\n", *line);
  }
  return out;
}

}  // namespace umwelt::cli
