// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

namespace umwelt {

// Does `work` in a thread that nobody waits for: one that has had nothing to do for a moment, or a
// new one. `work` must not throw, and must leave the thread as it found it (no setns(2), no
// unshare(2)): the next work is done there too. Throws std::system_error (EAGAIN) or
// std::bad_alloc where there is no thread for it. Thread-safe.
void run_in_worker(std::function<void()> work);

}  // namespace umwelt
