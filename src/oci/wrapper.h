// SPDX-License-Identifier: Apache-2.0
// umwelt-runtime: stands in the place of runc or crun, adds to the bundle what gives its container
// the files, and becomes that runtime.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace umwelt::oci {

// As the runtime reads its command line: runc by Go's rules (-bundle DIR, -b=DIR), crun by
// getopt_long's (-bDIR, --bund DIR).
enum class Options { kGo, kGetopt };

struct RuntimeCommand {
  std::string name;    // create, run, exec, start
  std::string bundle;  // "." unless it is given
  std::string config;  // crun's --config; "": the bundle's own
  std::string id;      // of create and run
};
// nullopt: none of these. `arguments` without the program's name.
std::optional<RuntimeCommand> parse_runtime_command(const std::vector<std::string>& arguments,
                                                    Options options);

// The runtime that a program of this name stands for: "umwelt-crun" and "crun" are crun,
// "umwelt-runtime" is the first of runc and crun that is there. UMWELT_OCI_RUNTIME (a path) decides
// before, and a link of the program's path with kRealRuntime behind it, which leads to the runtime.
// Never this program itself. ENOENT when there is none.
inline constexpr const char* kRealRuntime = ".real";
Result<std::string> find_runtime(const std::string& program_name);

// main() of umwelt-runtime. Returns only when nothing could be executed.
int run_wrapper(int argc, char** argv);

}  // namespace umwelt::oci
