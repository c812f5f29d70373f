// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace umwelt::cli {

struct Finished {
  int exit_code = 0;  // 128 + signal when it was killed
  std::string output;
};

// Runs a program (found in PATH unless it has a slash) with no standard input, this program's
// stderr, and signals at their defaults; returns what it wrote to stdout, at most 1 MiB.
Result<Finished> run_program(const std::vector<std::string>& arguments);

}  // namespace umwelt::cli
