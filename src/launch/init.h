// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/result.h"

namespace umwelt::launch {

// For --init: makes a child that will be the command, and returns in it. The caller becomes pid 1's
// work alone: it passes on every signal, reaps whatever is orphaned, and ends with the command's
// exit code, with no descriptor open but the streams. With a terminal the child is its foreground
// process group.
Result<void> split_off_init(bool tty);

}  // namespace umwelt::launch
