// SPDX-License-Identifier: Apache-2.0
// Containers that run already, of whatever runtime, found by what the kernel shows of them.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace umwelt::oci {

struct Found {
  std::string id;       // as the runtime has it
  std::string runtime;  // docker, podman, containerd, cri-o, lxc, nspawn, umwelt; "" when unknown
  pid_t pid = 0;        // of its init
  bool host_pids = false;  // it has no pid namespace of its own
};

// The runtime and the id that a cgroup path tells, an empty id when it tells none:
// "/docker/ID", "/system.slice/docker-ID.scope", "/libpod_parent/libpod-ID", "/default/ID" ...
Found recognize_cgroup(std::string_view path);

// Every process that is the first of its pid namespace (one level below ours) in a mount namespace
// of its own, in the order of the pids; then one of each container of a known runtime that shares
// our pid namespace.
Result<std::vector<Found>> find_containers();

// Runs a program and gives its output; an Error also when it fails.
using RunProgram = std::function<Result<std::string>(const std::vector<std::string>&)>;

// By pid, which may be any process of it; by id, or by the beginning of one that no other has.
// Names that only a runtime knows are asked of docker, podman, lxc-info and machinectl, as far as
// they are there. A whole sentence (code 0) when there is none, EEXIST when several begin like
// that.
Result<Found> find_container(const std::string& name, const RunProgram& run);

}  // namespace umwelt::oci
