// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "container/record.h"

namespace umwelt::fusefs {

// How umweltd was started: the command line goes before the configuration file, the file before
// what is built in.
struct Options {
  container::Directories directories;
  std::string log_level;
  unsigned threads = 0;  // that serve one connection
  bool foreground = false;
  std::vector<std::string> arguments;  // as given: for a program that takes over
  std::string lxcfs;               // has the shared tree too, where lxcfs had its own; "": nothing
  std::string pid_file;            // lxcfs's; "": none
  std::vector<std::string> notes;  // what was asked for and makes no difference
};

// What the configuration file sets. Only these keys may be in it:
//
//   log_level = "info"   # trace, debug, info, warning or error
//   threads = 4          # that serve one connection, 1 to 64; by default 2 to 8 as there are CPUs
struct Settings {
  std::optional<std::string> log_level;
  std::optional<unsigned> threads;
};
// A whole sentence (code 0) with the line at fault.
Result<Settings> parse_settings(std::string_view toml_text, const std::string& path);

// nullopt: everything is done already (--help, --version) or wrong, and said; exit with `code`.
std::optional<Options> parse_options(int argc, char** argv, int& code);

}  // namespace umwelt::fusefs
