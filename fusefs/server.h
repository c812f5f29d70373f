// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fusefs/holdings.h"
#include "fusefs/options.h"

namespace umwelt::fusefs {

// The process that serves what the keeper holds, until that says that it is to retire, or SIGTERM.
// Returns its exit code. If the keeper dies, it goes on serving and starts another.
int run_server(const Options& options, Holdings holdings);

}  // namespace umwelt::fusefs
