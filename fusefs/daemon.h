// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "fusefs/descriptor_store.h"
#include "fusefs/holdings.h"
#include "fusefs/options.h"

namespace umwelt::fusefs {

// What serves: the registry, the watch, the filesystem and its connections, the control socket.
class Daemon {
 public:
  // What it needs of the process that it is in. Called by any thread.
  struct Surroundings {
    DescriptorStore& store;  // outlives it
    std::function<pid_t()> keeper_pid;
    std::function<Result<void>(const std::string& program)> upgrade;
    std::function<void()> on_unmounted;  // somebody else did
    // Starts a guard for a listener that is kept (intercept/server.h).
    std::function<Result<void>(const std::string& suffix)> guard;
  };

  // What can be done while another one still serves.
  static Result<std::unique_ptr<Daemon>> prepare(const Options& options);
  // Loads the containers, answers what an earlier server left unanswered, and serves until it is
  // destroyed.
  Result<void> serve(const Holdings& holdings, Surroundings surroundings);
  // In the background: mounts the files again in containers that lost them when nothing of an
  // earlier daemon was left; takes from the page cache what may have changed since an earlier
  // server put it there.
  void look_after_containers();

  bool is_stuck(std::chrono::milliseconds time) const;
  ~Daemon();

 private:
  struct Impl;
  explicit Daemon(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace umwelt::fusefs
