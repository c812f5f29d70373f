// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/result.h"
#include "launch/channel.h"

namespace umwelt::launch {

// For --init: makes a child that will be the command, and returns in it. The caller becomes pid 1's
// work alone: it passes on every signal, reaps whatever is orphaned, and ends with the command's
// exit code. With a terminal the child is its foreground process group. `channel` is closed in the
// caller.
Result<void> split_off_init(Channel& channel, bool tty);

}  // namespace umwelt::launch
