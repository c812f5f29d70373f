// SPDX-License-Identifier: Apache-2.0
// Work on what somebody else made, in a process that has nothing to lose to it: the whole of what
// it can reach is one directory.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>

#include "base/result.h"

namespace umwelt::vdisk {

// The descriptors that the work has, and how it says something while it runs.
struct Confined {
  int directory = -1, source = -1;
  std::function<void(const nlohmann::json&)> tell;
};
using ConfinedWork = std::function<Result<nlohmann::json>(const Confined&)>;

// Runs `work` in a child and gives its result. The child's root is `directory`, which it may write
// to, but it opens no device there; `source` is a file or a directory that it may read, from a
// file's offset on. It has no network, sees no other process and no terminal, what it writes to
// stderr is lost, and its capabilities are those that make files of any owner. `told` gets what it
// tells. An Error with code 0 is the work's own or says that the child ended before it had a
// result. The caller is single-threaded and root.
Result<nlohmann::json> run_confined(int directory, int source, const ConfinedWork& work,
                                    const std::function<void(const nlohmann::json&)>& told);

}  // namespace umwelt::vdisk
