// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>

#include "base/result.h"
#include "container/registry.h"

namespace umwelt::control {

// What the requests act on; outlives the server.
struct Services {
  container::Registry& registry;
  // When it returns, every read shows the container's limits as they are now. ETIMEDOUT as
  // Container::refresh().
  std::function<Result<void>(const container::Registry::ContainerPtr&)> refresh;
  // The process to signal; whoever handles requests may be another one.
  std::function<pid_t()> keeper_pid = {};
  // Returns when the program is about to take over; "": the daemon's own, from its file.
  std::function<Result<void>(const std::string& program)> upgrade = {};
  // Whether the running containers that had lost their files were all seen to.
  std::function<bool()> attached = {};
};

// Answers one request of those that client.h lists. Any thread. EINVAL for a malformed request,
// ENOENT for an unknown container, ENOSYS for an unknown operation.
//
// The reply to "resources" is container_info.json with "usage" added: memory_bytes,
// cpu_ns (user, nice and system), throttled_ns, tasks, processes and load (three averages).
Result<nlohmann::json> handle_request(const Services& services, const nlohmann::json& request);

}  // namespace umwelt::control
