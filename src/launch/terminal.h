// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <termios.h>

#include <optional>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::launch {

struct Terminal {
  UniqueFd master, slave;
};
// A new pseudo-terminal of the container's own devpts. Runs in the container.
Result<Terminal> open_terminal(uid_t owner);

// Makes `slave` the controlling terminal of this session, which has none, and stdin, stdout and
// stderr.
Result<void> use_terminal(int slave);

// The user's terminal in raw mode as long as this lives; nothing when stdin is no terminal.
class RawMode {
 public:
  RawMode();
  ~RawMode();
  RawMode(const RawMode&) = delete;
  RawMode& operator=(const RawMode&) = delete;

 private:
  std::optional<termios> saved_;
};

// The size of the user's terminal (stdin, else stdout) to the container's.
void copy_window_size(int master);

}  // namespace umwelt::launch
