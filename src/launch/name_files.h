// SPDX-License-Identifier: Apache-2.0
// What a container is called and where it asks for other names.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "launch/spec.h"

namespace umwelt::launch {

// Files of the container's own, in memory, for /etc/hostname and /etc/hosts, which has the host's
// names where the network is the host's, and then for /etc/resolv.conf, too: an image has none, or
// a link into the host's /run. Both run in the container's mount namespace before pivot_root(2),
// the first one before there is a root filesystem on `staging`.
Result<UniqueFd> make_name_files(const Spec& spec, const std::string& staging);
// `own`: the root filesystem is the container's, in which what is missing is made.
Result<void> mount_name_files(int root, int files, bool own, bool read_only);

}  // namespace umwelt::launch
