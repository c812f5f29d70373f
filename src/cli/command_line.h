// SPDX-License-Identifier: Apache-2.0
// The command line as a tree of commands with options: which command is meant, what are options
// and what are operands, and what the user may have meant by a word that is neither.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cli/commands.h"

namespace umwelt::cli {

struct CommandLine {
  CLI::App* command = nullptr;     // the innermost one that was named
  std::vector<std::string> words;  // command names and options, one value a word, for CLI11
  Operands operands;
};

// An Error (code 0) is a whole sentence; `command` is set in `line` as far as it was understood.
Result<void> split_command_line(CLI::App& app, const Context& context,
                                const std::vector<std::string>& arguments, CommandLine& line);

// The candidate that is at most a third of its letters away from `word`, "" when none is.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

// "umwelt daemon start"
std::string full_name(const CLI::App& command);

// "daemon start: ", "" for the program itself: before an error, which print_error() begins with the
// program's name.
std::string error_prefix(const CLI::App& command);

std::string render_help(const CLI::App& app, const Context& context, unsigned columns);

}  // namespace umwelt::cli
