// SPDX-License-Identifier: Apache-2.0
#include "cli/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <numeric>

#include "cli/options.h"
#include "cli/output.h"

namespace umwelt::cli {
namespace {

const CLI::Option* find_option(const CLI::App* command, const std::string& name) {
  for (; command != nullptr; command = command->get_parent())
    for (const CLI::Option* option : command->get_options())
      if (option->nonpositional() && option->check_name(name)) return option;
  return nullptr;
}

bool takes_value(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

std::vector<std::string> option_names(const CLI::App* command) {
  std::vector<std::string> names;
  for (; command != nullptr; command = command->get_parent())
    for (const CLI::Option* option : command->get_options())
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  return names;
}

// What docker calls by another word than we do, and where its word would be taken for another.
constexpr struct {
  std::string_view command, word, meant;
} kDockerWords[] = {
    {"umwelt", "create", "run"},
    {"umwelt", "export", "image export"},
    {"umwelt", "images", "image ls"},
    {"umwelt", "import", "image import"},
    {"umwelt", "list", "ps"},
    {"umwelt", "load", "image import"},
    {"umwelt", "pull", "image import"},
    {"umwelt", "rmi", "image rm"},
    {"umwelt", "save", "image export"},
    {"umwelt", "start", "run"},
    {"umwelt", "top", "exec NAME ps"},
    {"umwelt", "version", "--version"},
    {"umwelt", "-v", "--version"},
    {"umwelt image", "list", "ls"},
    {"umwelt image", "load", "import"},
    {"umwelt image", "pull", "import"},
    {"umwelt image", "remove", "rm"},
    {"umwelt image", "save", "export"},
    {"umwelt run", "--net", "--network"},
    {"umwelt vdisk", "list", "ls"},
    {"umwelt vdisk", "remove", "rm"},
    {"umwelt vdisk", "resize", "grow"},
    {"umwelt volume", "list", "ls"},
    {"umwelt volume", "remove", "rm"},
};

std::string meant_by(const std::string& word, const std::vector<std::string>& candidates,
                     const std::string& command) {
  for (const auto& known : kDockerWords)
    if (known.command == command && known.word == word) return std::string(known.meant);
  return nearest(word, candidates);
}

std::string hint(const std::string& word, const std::vector<std::string>& candidates,
                 const CLI::App& command) {
  const std::string meant = meant_by(word, candidates, full_name(command));
  if (!meant.empty()) return fmt::format("; did you mean {}?", meant);
  return fmt::format("; see {} --help", full_name(command));
}

tl::unexpected<Error> unknown_option(const CLI::App& command, const std::string& name) {
  return fail(0, fmt::format("{}unknown option {}{}", error_prefix(command), printable(name, 60),
                             hint(name, option_names(&command), command)));
}

// Takes the arguments one after the other; `line` grows with each.
class Splitter {
 public:
  Splitter(const std::vector<std::string>& arguments, const Context& context, CommandLine& line)
      : arguments_(arguments), context_(context), line_(line) {}

  Result<void> split() {
    while (at_ < arguments_.size()) {
      const std::string& word = arguments_[at_++];
      if (word == "--") {
        take_rest();
      } else if (word.starts_with("--")) {
        UMWELT_CHECK(take_long(word));
      } else if (word.size() > 1 && word[0] == '-') {
        UMWELT_CHECK(take_short(word));
      } else {
        UMWELT_CHECK(take_operand(word));
      }
    }
    return {};
  }

 private:
  void take_rest() {
    line_.operands.insert(line_.operands.end(),
                          arguments_.begin() + static_cast<std::ptrdiff_t>(at_), arguments_.end());
    at_ = arguments_.size();
  }

  Result<void> take_value(const std::string& name) {
    if (at_ == arguments_.size())
      return fail(0, fmt::format("{}{} needs a value", error_prefix(*line_.command), name));
    line_.words.push_back(arguments_[at_++]);
    return {};
  }

  Result<void> take_long(const std::string& word) {
    const std::size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const CLI::Option* option = find_option(line_.command, name);
    if (option == nullptr) return unknown_option(*line_.command, name);
    if (!takes_value(*option)) {
      line_.words.push_back(word);  // a flag, perhaps with =true or =false
      return {};
    }
    line_.words.push_back(name);
    if (equals == std::string::npos) return take_value(name);
    line_.words.push_back(word.substr(equals + 1));
    return {};
  }

  // "-it", "-m256m", "-m", "256m"
  Result<void> take_short(const std::string& word) {
    for (std::size_t i = 1; i < word.size(); ++i) {
      const std::string name{'-', word[i]};
      const CLI::Option* option = find_option(line_.command, name);
      if (option == nullptr) return unknown_option(*line_.command, name);
      line_.words.push_back(name);
      if (!takes_value(*option)) continue;
      if (i + 1 == word.size()) return take_value(name);
      line_.words.push_back(word.substr(i + 1));
      break;
    }
    return {};
  }

  Result<void> take_operand(const std::string& word) {
    const std::vector<std::string> names = command_names(*line_.command);
    if (names.empty()) {
      line_.operands.push_back(word);
      const auto found = context_.commands.find(line_.command);
      if (found != context_.commands.end() && found->second.options_end_at_operand) take_rest();
      return {};
    }
    if (std::find(names.begin(), names.end(), word) == names.end())
      return fail(0, fmt::format("{}unknown command {}{}", error_prefix(*line_.command),
                                 printable(word, 60), hint(word, names, *line_.command)));
    line_.command = line_.command->get_subcommand(word);
    line_.words.push_back(word);
    return {};
  }

  const std::vector<std::string>& arguments_;
  const Context& context_;
  CommandLine& line_;
  std::size_t at_ = 0;
};

// Damerau's distance with adjacent transpositions: "rnu" is one away from "run".
unsigned distance(std::string_view a, std::string_view b) {
  std::vector<unsigned> before(b.size() + 1), previous(b.size() + 1), current(b.size() + 1);
  std::iota(previous.begin(), previous.end(), 0U);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    current[0] = static_cast<unsigned>(i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const unsigned change = a[i - 1] == b[j - 1] ? 0 : 1;
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, previous[j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        current[j] = std::min(current[j], before[j - 2] + 1);
    }
    before.swap(previous);
    previous.swap(current);
  }
  return previous[b.size()];
}

}  // namespace

Result<void> split_command_line(CLI::App& app, const Context& context,
                                const std::vector<std::string>& arguments, CommandLine& line) {
  line.command = &app;
  return Splitter(arguments, context, line).split();
}

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  if (word.size() > 60) return {};
  std::string best;
  unsigned best_distance = ~0U;
  for (const std::string& candidate : candidates) {
    const unsigned d = distance(word, candidate);
    if (d >= best_distance) continue;
    best = candidate;
    best_distance = d;
  }
  const std::size_t letters = best.size() - std::min(best.size(), best.find_first_not_of('-'));
  return best_distance <= std::max<std::size_t>(1, letters / 3) ? best : std::string{};
}

std::string full_name(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  return parent == nullptr ? command.get_name() : full_name(*parent) + " " + command.get_name();
}

std::string error_prefix(const CLI::App& command) {
  if (command.get_parent() == nullptr) return {};
  const std::string name = full_name(command);
  return name.substr(name.find(' ') + 1) + ": ";
}

CLI::App* add_command(CLI::App& app, Context& context, Command command) {
  CLI::App* added = app.add_subcommand(command.name, command.summary);
  added->fallthrough();  // global options may also follow the command
  context.commands.emplace(added, std::move(command));
  return added;
}

CLI::App* add_group(CLI::App& app, const std::string& name, const std::string& summary) {
  CLI::App* added = app.add_subcommand(name, summary);
  added->fallthrough();
  added->require_subcommand(1);
  return added;
}

void add_flag(CLI::App& command, const std::string& names, bool& value,
              const std::string& description) {
  command.add_flag(names, value, description);
}

void add_text(CLI::App& command, const std::string& names, const std::string& value_name,
              std::string& value, const std::string& description) {
  command.add_option(names, value, description)
      ->type_name(value_name)
      ->check([](const std::string& text) { return text.empty() ? "is empty" : std::string(); });
}

void add_checked(CLI::App& command, const std::string& names, const std::string& value_name,
                 std::function<std::string(const std::string&)> check,
                 const std::string& description, const OptionLook& look) {
  CLI::Option* option = command
                            .add_option_function<std::string>(
                                names, [](const std::string&) {}, description)
                            ->type_name(value_name)
                            ->take_last()
                            ->check(std::move(check));
  if (!look.group.empty()) option->group(look.group);
  if (look.repeated) option->take_all()->allow_extra_args(false);
}

}  // namespace umwelt::cli
