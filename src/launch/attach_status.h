// SPDX-License-Identifier: Apache-2.0
// The file of intercept/status.h over /proc/PID/status of one process. The kernel takes the mount
// away when the process ends.
#pragma once

#include <sys/types.h>

#include "base/result.h"
#include "container/record.h"
#include "launch/attach.h"

namespace umwelt::launch {

// `process` is of the container `record`; what covers its file already stays. As attach_views() in
// all else: thread-safe, with kAttachPatience, and never where another mount namespace would see
// it.
//
// ESRCH: it is gone. EINVAL: it is in no mount namespace of its own. EPERM: its /proc is not one
// that has it by its own id.
Result<void> attach_status(const container::Record& record,
                           const container::Directories& directories, pid_t process);

// attach_views() with kAttachPatience for a container that lost its files with a daemon that died,
// and these in place of what it left of them.
Result<Attached> attach_again(const container::Record& record,
                              const container::Directories& directories);

}  // namespace umwelt::launch
