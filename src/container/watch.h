// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>

#include "container/registry.h"

namespace umwelt::container {

// Notices what changes a container, in a thread of its own until destroyed: writes to its limit
// files and its ancestors' (inotify; an ancestor that many share is watched once), CPU hotplug
// (uevents), and the death of its init process (pidfd), which unregisters it. What nobody announces
// (another cgroup's partition taking CPUs away, the removal of the cgroup) is found by looking at 8
// containers a second in turn, and by reading all limits of one again. Also keeps histories, sweeps
// on-demand containers and gives memory back.
class Watch {
 public:
  using ContainerPtr = Registry::ContainerPtr;
  // Called after the generation of a container was raised, by the watch's thread or by a caller of
  // refresh(), at most once at a time for each container. What was cached of it is to be dropped
  // before this returns. May read the container, must not refresh, add or remove one.
  using Changed = std::function<void(const ContainerPtr&)>;

  // Before registry.load(): it observes the registry, which must not change after its end.
  static Result<std::unique_ptr<Watch>> start(Registry& registry,
                                              std::shared_ptr<host::Reader> host, Changed changed);
  ~Watch();

  // When it returns, `changed` has returned for every change made before the call. ENODEV when the
  // cgroup is gone.
  Result<void> refresh(const ContainerPtr& container);

  // Whether its thread has been at one thing for 30 s, which nothing takes that it does.
  bool is_stuck() const;

 private:
  Watch();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace umwelt::container
