// SPDX-License-Identifier: Apache-2.0
#include "cli/completion.h"

#include <fmt/format.h>
#include <signal.h>
#include <string.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <set>

#include "cli/command_line.h"
#include "cli/containers.h"
#include "cli/storage.h"
#include "oci/discover.h"

namespace umwelt::cli {
namespace {

constexpr std::string_view kBash = R"(# bash completion for umwelt; made by: umwelt completion bash
_umwelt() {
  # Readline has cut the words at "=" and ":" as well.
  local typed=${COMP_LINE:0:COMP_POINT} words=() rest i
  for ((i = 0; i <= COMP_CWORD; i++)); do
    rest=${typed#"${typed%%[![:space:]]*}"}
    local word=${COMP_WORDS[i]}
    ((i < COMP_CWORD)) || word=$rest
    if ((i > 0)) && [[ $rest == "$typed" ]]; then words[-1]+=$word; else words+=("$word"); fi
    typed=${rest#"$word"}
  done
  local cur=${words[-1]} line files= candidates=()
  while IFS= read -r line; do
    if [[ $line == :files ]]; then files=yes; else candidates+=("${line%%$'\t'*}"); fi
  done < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
  if [[ $files ]]; then
    local value=$cur
    [[ $cur == --*=* ]] && value=${cur#*=}
    compopt -o filenames 2>/dev/null
    while IFS= read -r line; do candidates+=("${cur%"$value"}$line"); done < <(compgen -f -- "$value")
  fi
  # It only replaces what follows the last cut.
  local mark before cut=
  for mark in = :; do
    before=${cur%"${cur##*"$mark"}"}
    [[ $COMP_WORDBREAKS == *"$mark"* ]] && ((${#before} > ${#cut})) && cut=$before
  done
  COMPREPLY=()
  for line in "${candidates[@]}"; do
    [[ $line == "$cur"* ]] && COMPREPLY+=("${line#"$cut"}")
  done
}
complete -F _umwelt umwelt
)";

constexpr std::string_view kZsh = R"(#compdef umwelt
# zsh completion for umwelt; made by: umwelt completion zsh
_umwelt() {
  local line files=
  local -a candidates
  for line in "${(@f)$(${words[1]} __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    if [[ $line == :files ]]; then
      files=yes
    elif [[ -n $line ]]; then
      candidates+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    fi
  done
  (( $#candidates )) && _describe umwelt candidates
  [[ -n $files ]] && _files
}
if [[ $funcstack[1] == _umwelt ]]; then _umwelt; else compdef _umwelt umwelt; fi
)";

constexpr std::string_view kFish = R"(# fish completion for umwelt; made by: umwelt completion fish
function __umwelt_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in ($words[1] __complete $words[2..-1] 2>/dev/null)
        if test "$line" = :files
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c umwelt -f -a '(__umwelt_complete)'
)";

const CLI::Option* find_option(const CLI::App* command, std::string_view name) {
  for (; command != nullptr; command = command->get_parent())
    for (const CLI::Option* option : command->get_options())
      if (option->check_name(std::string(name))) return option;
  return nullptr;
}

const CLI::App* find_command(const CLI::App& app, const std::string& name) {
  for (const CLI::App* command : app.get_subcommands({}))
    if (command->get_name() == name) return command;
  return nullptr;
}

bool takes_value(const CLI::Option* option) {
  return option != nullptr && option->get_items_expected_max() > 0;
}

// Where the word that is being typed stands.
struct Place {
  const CLI::App* command;
  const CLI::Option* value_of = nullptr;  // the option whose value it is
  Operands operands;                      // before it
  bool options_ended = false;
};

Place find_place(const CLI::App& app, const Context& context,
                 const std::vector<std::string>& words) {
  Place place{&app, nullptr, {}, false};
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    const std::string& word = words[i];
    if (place.value_of != nullptr) {
      place.value_of = nullptr;
    } else if (place.options_ended) {
      place.operands.push_back(word);
    } else if (word == "--") {
      place.options_ended = true;
    } else if (word.starts_with("--")) {
      const CLI::Option* option = find_option(place.command, word);
      if (takes_value(option)) place.value_of = option;
    } else if (word.size() > 1 && word[0] == '-') {
      const CLI::Option* option = find_option(place.command, std::string{'-', word.back()});
      if (takes_value(option)) place.value_of = option;
    } else if (const CLI::App* next = find_command(*place.command, word)) {
      place.command = next;
    } else {
      place.operands.push_back(word);
      const auto found = context.commands.find(place.command);
      if (found != context.commands.end() && found->second.options_end_at_operand)
        place.options_ended = true;
    }
  }
  return place;
}

void add_containers(const Context& context, bool running_only, const Operands& named,
                    Completion& out) {
  const launch::Store store(context.directories);
  const auto all = store.all();
  if (!all) return;
  for (const launch::Launched& launched : *all) {
    if (running_only && !is_running(launched)) continue;
    if (std::find(named.begin(), named.end(), launched.spec.name) != named.end()) continue;
    std::string command;
    for (const std::string& word : launched.spec.command) command += word + " ";
    out.candidates.push_back({launched.spec.name, printable(command, 40)});
  }
}

void add_images(const Context& context, const Operands& named, Completion& out) {
  const auto images = open_images(context);
  if (!images) return;
  const auto all = images->list();
  if (!all) return;
  for (const vdisk::Image& image : all->images)
    if (std::find(named.begin(), named.end(), image.name) == named.end())
      out.candidates.push_back({image.name, human_size(image.stored_bytes)});
}

void add_vdisks(const Context& context, bool volumes, const Operands& named, Completion& out) {
  const auto store = open_vdisks(context);
  if (!store) return;
  const auto all = store->list();
  if (!all) return;
  for (const vdisk::Entry& entry : *all) {
    std::string name = entry.name;
    if (volumes && !name.starts_with(vdisk::kVolumePrefix)) continue;
    if (volumes) name.erase(0, vdisk::kVolumePrefix.size());
    if (std::find(named.begin(), named.end(), name) == named.end())
      out.candidates.push_back(
          {name, entry.record ? human_size(entry.record->capacity_bytes) : "no record"});
  }
}

// Containers of other runtimes.
void add_foreign(const Operands& named, Completion& out) {
  const auto all = oci::find_containers();
  if (!all) return;
  for (const oci::Found& found : *all)
    if (!found.id.empty() && found.runtime != "umwelt" &&
        std::find(named.begin(), named.end(), found.id) == named.end())
      out.candidates.push_back({found.id, found.runtime});
}

// "a|b|c", of which each is a word as it is typed.
bool is_words(std::string_view text) {
  return text.find('|') != text.npos && text.front() >= 'a' && text.front() <= 'z';
}

void add_words(const std::string& words, const std::string& before, Completion& out) {
  for (const std::string& word : CLI::detail::split(words, '|'))
    out.candidates.push_back({before + word, ""});
}

void add_operands(const Context& context, const Place& place, Completion& out) {
  const auto found = context.commands.find(place.command);
  if (found == context.commands.end()) return;
  const Command& command = found->second;
  if (place.operands.size() >= command.max_operands) return;
  static const std::set<std::string_view> kTakeStopped = {"inspect", "logs", "rm", "wait"};
  const bool names = command.operands.find("NAME") != std::string::npos;
  if (command.name == "explain" && !place.operands.empty())
    out.files = true;
  else if (command.operands.starts_with("IMAGE"))
    add_images(context, place.operands, out);
  else if (command.operands.find("VDISK") != std::string::npos)
    add_vdisks(context, false, place.operands, out);
  else if (command.operands.find("VOLUME") != std::string::npos)
    add_vdisks(context, true, place.operands, out);
  else if (names && (place.operands.empty() || !command.options_end_at_operand))
    add_containers(context, !kTakeStopped.contains(command.name), place.operands, out);
  else if (is_words(command.operands))
    add_words(command.operands, "", out);
  else if (command.operands.find("CONTAINER") != std::string::npos)
    add_foreign(place.operands, out);
  else if (command.max_operands > 0)
    out.files = true;
}

void add_values(const Context& context, const CLI::Option& option, const std::string& before,
                Completion& out) {
  const std::string type = option.get_type_name();
  if (type == "SIGNAL") {
    for (int signal = 1; signal < SIGRTMIN; ++signal)
      if (const char* name = sigabbrev_np(signal))
        out.candidates.push_back({before + name, sigdescr_np(signal)});
  } else if (type == "IMAGE" || type == "SIZE|VDISK") {
    Completion names;
    if (type == "IMAGE")
      add_images(context, {}, names);
    else
      add_vdisks(context, false, {}, names);
    for (Candidate& name : names.candidates)
      if (!name.word.starts_with(vdisk::kVolumePrefix))
        out.candidates.push_back({before + name.word, std::move(name.description)});
  } else if (is_words(type)) {
    add_words(type, before, out);
  } else {
    out.files = type == "DIR" || type == "FILE" || type.starts_with("SOURCE:");
  }
}

void add_options(const CLI::App* command, Completion& out) {
  for (; command != nullptr; command = command->get_parent())
    for (const CLI::Option* option : command->get_options())
      for (const std::string& name : option->get_lnames())
        if (!option->get_group().empty())
          out.candidates.push_back({"--" + name, option->get_description()});
}

void keep_matching(const std::string& word, Completion& completion) {
  std::erase_if(completion.candidates,
                [&word](const Candidate& c) { return !c.word.starts_with(word); });
}

}  // namespace

Completion complete(const CLI::App& app, Context& context, const std::vector<std::string>& words) {
  Completion out;
  const std::string word = words.empty() ? "" : words.back();
  const Place place = find_place(app, context, words);
  const std::size_t equals = word.find('=');
  if (place.value_of != nullptr) {
    add_values(context, *place.value_of, "", out);
  } else if (!place.options_ended && word.starts_with("--") && equals != std::string::npos) {
    const CLI::Option* option = find_option(place.command, word.substr(0, equals));
    if (takes_value(option)) add_values(context, *option, word.substr(0, equals + 1), out);
  } else if (!place.options_ended && word.starts_with("-")) {
    add_options(place.command, out);
  } else {
    for (const CLI::App* command : place.command->get_subcommands({}))
      out.candidates.push_back({command->get_name(), command->get_description()});
    add_operands(context, place, out);
  }
  keep_matching(word, out);
  return out;
}

std::string render_completion(const Completion& completion) {
  std::string out;
  for (const Candidate& candidate : completion.candidates)
    out += printable(candidate.word) + "\t" + printable(candidate.description) + "\n";
  return out + (completion.files ? ":files\n" : "");
}

void add_completion(CLI::App& app, Context& context) {
  add_command(app, context,
              {.name = "completion",
               .summary = "Print the completion script for a shell",
               .operands = "bash|zsh|fish",
               .examples = "source <(umwelt completion bash)\n"
                           "umwelt completion zsh > \"${fpath[1]}/_umwelt\"\n"
                           "umwelt completion fish > ~/.config/fish/completions/umwelt.fish\n",
               .min_operands = 1,
               .max_operands = 1,
               .action = [](const Operands& shells) -> Result<int> {
                 const std::string& shell = shells.front();
                 if (shell != "bash" && shell != "zsh" && shell != "fish")
                   return fail_usage(fmt::format("completion: '{}' is not bash, zsh or fish",
                                                 printable(shell, 60)));
                 UMWELT_CHECK(print(shell == "bash" ? kBash : shell == "zsh" ? kZsh : kFish));
                 return 0;
               }});
}

}  // namespace umwelt::cli
