// SPDX-License-Identifier: Apache-2.0
// What the commands on running containers have in common.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "control/client.h"
#include "launch/spec.h"
#include "launch/store.h"

namespace umwelt::cli {

// The store, after it has been tidied of containers whose launcher died.
Result<launch::Store> open_store(const container::Directories& directories);

inline constexpr std::size_t kShortId = 12;  // of an id, as ps shows it

// Of what the daemon knows: by id or name, or by the beginning of an id, as ps shows it, that fits
// only one. nullptr: none.
const container::Record* find_registered(const std::vector<container::Record>& records,
                                         const std::string& name);

// ENOENT as a sentence: "no such container: wbe; did you mean web?"
Result<launch::Launched> find_container(const launch::Store& store, const std::string& name);
// The same, and it runs: else an Error that says "is not running".
Result<launch::Launched> find_running(const launch::Store& store, const std::string& name);

bool is_running(const launch::Launched& launched);

// Calls `act` for every name; a failure is printed, the others are still done. kExitFailure when
// there was one.
Result<int> for_each_name(const Operands& names,
                          const std::function<Result<void>(const std::string& name)>& act);

// A descriptor of the container's init; ESRCH when it is gone, also if its pid was given to
// another process.
Result<UniqueFd> open_init(const launch::Launched& launched);

// Waits until the container's end is written down, and returns it as it then is; nullopt when it
// was --rm and nothing is left. ETIMEDOUT after `patience_ms` (negative: never).
Result<std::optional<launch::Launched>> wait_until_stopped(launch::Store& store,
                                                           const launch::Launched& launched,
                                                           int patience_ms);

// A client of the daemon, nullopt when none runs; nothing is started.
Result<std::optional<control::Client>> connect_daemon(const container::Directories& directories);

// "0.5", "2"
std::string cpus_text(double cpus);

}  // namespace umwelt::cli
