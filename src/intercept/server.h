// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "container/registry.h"
#include "intercept/answers.h"

namespace umwelt::intercept {

// Answers the syscalls of containers: takes seccomp listeners on a unix socket, which also is a
// listenerPath for OCI runtimes, and serves each until nobody is left who could call. Only root may
// connect. Thread-safe.
class Server {
 public:
  using ContainerPtr = container::Registry::ContainerPtr;

  // Keeps descriptors for the next server, also if this process is killed at once, under names like
  // "listener/ID/1", "notice/ID/1" and "seccomp-socket". `guard` starts a guard (guard.h) for the
  // listener that is kept as "listener/" + suffix.
  struct Keeping {
    std::function<Result<void>(const std::string& name, int fd)> keep;
    std::function<void(const std::string& name)> drop;
    std::function<Result<void>(const std::string& suffix)> guard;
  };

  // `cover` as Answers has it. `kept`: what an earlier server kept; what is not of this one's names
  // is left alone. `runtime`: the daemon's directory.
  static Result<std::unique_ptr<Server>> start(const std::string& runtime,
                                               container::Registry& registry, Keeping keeping,
                                               Answers::Cover cover,
                                               std::map<std::string, UniqueFd> kept);
  // Whoever else has a listener goes on with it.
  ~Server();

  // To be called after every change of a container's limits.
  void container_changed(const ContainerPtr& container);

 private:
  Server();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace umwelt::intercept
