// SPDX-License-Identifier: Apache-2.0
// The launcher's child: from its birth in new namespaces to the exec of the command.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"
#include "container/record.h"
#include "launch/cgroup_entry.h"
#include "launch/channel.h"
#include "launch/launch.h"
#include "launch/spec.h"
#include "launch/storage.h"

namespace umwelt::launch {

// Where stdout and stderr go; none: the launcher's own.
struct Output {
  UniqueFd out, err;
};

// Waits for the parent once, until its cgroups are there and the daemon knows it. Whatever fails
// goes over the channel. `staging` is a directory of the host that the root is mounted over in the
// child's own mount namespace. `storage` is closed when it is mounted.
[[noreturn]] void run_container(const Spec& spec, const container::Directories& directories,
                                const CgroupDirectories& cgroups, const std::string& staging,
                                Storage& storage, Channel channel, Output output);

// A further process of a running container, already in its pid and time namespace, and in its
// cgroup of v2 if it was `born_there`: enters the others and the other namespaces of `init`.
[[noreturn]] void run_in_container(const ExecRequest& request, const std::string& hostname,
                                   int init, const CgroupDirectories& cgroups, bool born_there,
                                   Channel channel);

}  // namespace umwelt::launch
