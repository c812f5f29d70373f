// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::control {

// A bound control socket that listens; whoever connects waits until a Server is there. The lock
// tells a living daemon, however busy, from a dead one's socket file.
struct Listener {
  // EADDRINUSE when another daemon serves the socket; a dead socket file is replaced.
  static Result<Listener> bind(const std::string& socket_path);

  // Whether `socket` is bound to that path, and the file is still there.
  static bool is_at(int socket, const std::string& socket_path);

  UniqueFd lock, socket;
};

// Serves the control socket in threads of its own until destroyed; the handler is called by several
// at a time, one for each of at most 64 connections; when there are so many, the next one waits
// until one ends or asks nothing for half a second, which is closed. A peer that is not root or the
// daemon's own user is refused (SO_PEERCRED). A malformed or oversized message gets an error reply
// and harms nobody else; a peer that does not read its replies is dropped.
class Server {
 public:
  using Handler = std::function<Result<nlohmann::json>(const nlohmann::json& request)>;

  // A copy of `listener` that another process holds goes on listening after the end.
  static Result<std::unique_ptr<Server>> start(
      Listener listener, Handler handler,
      std::chrono::milliseconds send_timeout = std::chrono::seconds(5));
  // Whoever waits for a reply gets it, if that is ready soon.
  ~Server();

 private:
  Server();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace umwelt::control
