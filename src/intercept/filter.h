// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::intercept {

// From here on the syscalls of request.h, of this thread and of whatever it starts, wait for the
// answer of whoever holds the listener that is returned (CLOEXEC). Needs no_new_privs or
// CAP_SYS_ADMIN. EBUSY when a filter that this thread inherited has a listener: the kernel allows
// one in a chain of filters. EINVAL before Linux 5.0.
//
// A signal does not interrupt a call that was received (since Linux 5.19); before that, and while
// it waits to be received, it is made again after the signal's handler if that has SA_RESTART, and
// fails with EINTR otherwise.
Result<UniqueFd> install_filter();

}  // namespace umwelt::intercept
