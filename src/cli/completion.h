// SPDX-License-Identifier: Apache-2.0
// What can follow on the command line. The shells' scripts are a few lines each and ask the
// program ("umwelt __complete WORD..."), so that they never know other options than it has.
#pragma once

#include <string>
#include <vector>

#include "cli/commands.h"

namespace umwelt::cli {

struct Candidate {
  std::string word, description;
};
struct Completion {
  std::vector<Candidate> candidates;
  bool files = false;  // the shell's own completion of paths is asked for
};

// `words` stand after "umwelt"; the last one is being typed and may be empty.
Completion complete(const CLI::App& app, Context& context, const std::vector<std::string>& words);

// Candidates as lines "WORD\tDESCRIPTION", then ":files" if they are asked for.
std::string render_completion(const Completion& completion);

}  // namespace umwelt::cli
