// SPDX-License-Identifier: Apache-2.0
// Values of the options of `run` and `exec`. Every parse_ function fails with a sentence (Error
// code 0), as those of options.h do.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/options.h"
#include "launch/spec.h"

namespace umwelt::cli {

// "SOURCE:TARGET[:ro|rw]": an absolute path or the name of a volume, and an absolute path.
Result<launch::Mount> parse_volume(std::string_view text);
// "type=bind,source=DIR,target=DIR[,readonly]", "type=tmpfs,target=DIR[,tmpfs-size=64m]
// [,tmpfs-mode=1777][,readonly]", "type=volume,source=NAME,target=DIR[,readonly]"; src, dst,
// destination and ro are the short names.
Result<launch::Mount> parse_mount(std::string_view text);
// "TARGET[:size=64m,mode=1777,ro]"
Result<launch::Mount> parse_tmpfs(std::string_view text);
// "KEY=value"; "KEY" takes the launcher's own value, and is nothing ("") when it has none.
Result<std::string> parse_environment(std::string_view text);
// Lines of the same, without blank ones and those that begin with '#'.
Result<std::vector<std::string>> parse_environment_file(std::string_view text);
Result<std::string> parse_hostname(std::string_view text);
Result<launch::Network> parse_network(std::string_view text);
Result<launch::Views> parse_views(std::string_view text);
Result<bool> parse_on_off(std::string_view text);
Result<std::string> parse_absolute_path(std::string_view text);

// An option that may be given more than once.
template <class T, class Store>
void add_repeated(CLI::App& command, const std::string& names, const std::string& value_name,
                  Result<T> (*parse)(std::string_view), Store store,
                  const std::string& description) {
  add_parsed(command, names, value_name, parse, std::move(store), description, {.repeated = true});
}

// --env, --env-file: in the order of the command line, files first.
struct EnvironmentOptions {
  std::vector<std::string> files, variables;
};
void add_environment_options(CLI::App& command, EnvironmentOptions& options);
Result<std::vector<std::string>> read_environment(const EnvironmentOptions& options);

}  // namespace umwelt::cli
