// SPDX-License-Identifier: Apache-2.0
// /proc/PID/status (proc(5)) of a process of a container. libnuma takes from there, and from
// nowhere else, which CPUs a program may ask for by number.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "intercept/request.h"
#include "view/resources.h"

namespace umwelt::intercept {

// As the process's own /proc has it, but for the CPUs, which are those that sched_getaffinity(2)
// says. `process` is its id in the reader's pid namespace. ESRCH when it is gone.
Result<std::string> process_status(pid_t process, const view::Cpus& cpus);

// The same of the reader's text. Pure.
struct Names {  // what the process calls what the reader's text names
  std::function<pid_t(pid_t)> process;
  std::function<std::uint64_t(std::uint64_t)> user, group;
};
std::string translate_status(std::string_view text, const view::Cpus& cpus, const Names& names);

// What a user namespace calls an id, by its uid_map or gid_map (user_namespaces(7)): the overflow
// id where that does not have it. Pure.
std::uint64_t translate_id(std::string_view map, std::uint64_t id);

// Its name in the container's tree: "process123", by the id that process_status() takes. nullopt:
// none.
std::string status_name(pid_t process);
std::optional<pid_t> parse_status_name(std::string_view name);

// Whether a call of sched_getaffinity(2) is libnuma's first one (set_numa_max_cpu(), libnuma.c),
// right after which it reads the file: about itself, with a mask of 4096 bits.
bool is_libnumas_first(const Request& request);

}  // namespace umwelt::intercept
