// SPDX-License-Identifier: Apache-2.0
// The subcommands for the machine and its other runtimes, as commands.h has those of containers.
#pragma once

#include "cli/commands.h"

namespace umwelt::cli {

void add_attach(CLI::App& app, Context& context);
void add_doctor(CLI::App& app, Context& context);
void add_oci_hook(CLI::App& app, Context& context);
void add_setup(CLI::App& app, Context& context);

}  // namespace umwelt::cli
