// SPDX-License-Identifier: Apache-2.0
// The fallback of the listeners that runtimes handed over, which keep no copy of them: one small
// process that outlives the daemon.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::intercept {

inline constexpr char kGuardName[] = "umweltd-guard";  // of the process

// The connection to that process. It ends when nobody is left who could call, and the connection is
// closed.
class Guard {
 public:
  // A fork of the caller, with no descriptor of the caller's. For programs with one thread.
  // `runtime`: the daemon's directory.
  static Result<Guard> start(const std::string& runtime);
  // The connection of an earlier program of this process.
  explicit Guard(UniqueFd socket) : socket_(std::move(socket)) {}

  // Gives it copies of a container's listener and notice (notice.h). EAGAIN when it does not take
  // them within 100 ms, EPIPE when it is gone.
  Result<void> add(const std::string& id, int listener, int notice) const;

  // Readable, and at its end, when the process is gone.
  int fd() const { return socket_.get(); }

 private:
  UniqueFd socket_;
};

}  // namespace umwelt::intercept
