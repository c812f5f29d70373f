// SPDX-License-Identifier: Apache-2.0
// The daemon's control socket: a SOCK_SEQPACKET unix socket, mode 0600, one JSON object per
// message, one reply per request: {"ok":true,...} or {"ok":false,"errno":N,"error":"..."}.
//
//   {"op":"ping"}                     -> version, pid, server: the process that answers
//   {"op":"register","record":{...}}  -> record (with its number); idempotent for the same init
//   {"op":"unregister","id":ID}
//   {"op":"list","after":NUMBER}      -> records in order of their numbers, from the next higher
//                                        one; "more": true when the list goes on
//   {"op":"resources","id":ID}        -> resources: what container_info.json shows, fresh, and
//                                        "usage" (control/handler.h)
//   {"op":"explain","id":ID,"path":FILE} -> lines, as container/explain.h has them; with "pid"
//                                        instead of "id" of the container that process is in
//   {"op":"refresh","id":ID}          -> after it every read of that container shows the limits as
//                                        they are now, also from the page cache
//   {"op":"upgrade","program":PATH}   -> when the program is about to take over from this server
#pragma once

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "container/record.h"

namespace umwelt::control {

// Not thread-safe. ECONNREFUSED or ENOENT from connect(): no daemon there. ETIMEDOUT when the
// daemon takes longer than `timeout`; the connection is of no use after that. Otherwise the errno
// and text of the daemon's own reply.
class Client {
 public:
  // Longer than the daemon waits for what a container holds, 5 s and what it had begun by then: its
  // reply says what that is.
  static constexpr std::chrono::seconds kPatience{8};

  static Result<Client> connect(const std::string& socket_path,
                                std::chrono::milliseconds timeout = kPatience);

  // Asks again, on a new connection, when the daemon's server was replaced before it answered:
  // ECONNRESET only if none comes. So a request may be handled twice.
  Result<nlohmann::json> call(const nlohmann::json& request);
  Result<nlohmann::json> call_once(const nlohmann::json& request);
  // Its halves, for one who has something to do meanwhile.
  Result<void> send(const nlohmann::json& request);
  Result<nlohmann::json> receive();

  Result<container::Record> add(const container::Record& record);
  Result<void> remove(const std::string& id);
  Result<std::vector<container::Record>> list();
  Result<nlohmann::json> resources(const std::string& id);
  Result<void> refresh(const std::string& id);

 private:
  Client(std::string socket_path, std::chrono::milliseconds timeout, UniqueFd fd)
      : socket_path_(std::move(socket_path)), timeout_(timeout), fd_(std::move(fd)) {}

  std::string socket_path_;
  std::chrono::milliseconds timeout_;
  UniqueFd fd_;
};

// Connects; when nobody serves the socket, starts `umweltd` (beside this program's own file, else
// from PATH) in the background with the same directories and waits until it answers and, at most 2
// s, until running containers have their files again. Safe when several do it at once.
Result<Client> connect_or_start(const container::Directories& directories,
                                std::chrono::milliseconds patience = std::chrono::seconds(10));

}  // namespace umwelt::control
