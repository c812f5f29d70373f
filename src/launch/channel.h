// SPDX-License-Identifier: Apache-2.0
// What the launcher and its child tell each other while the container is being made: a pair of
// CLOEXEC sockets. The child's end closes by itself when the command is exec'ed.
#pragma once

#include <optional>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::launch {

enum class Stage : char { kLauncher = 'l', kExec = 'x' };

// Why the child gave up; of stage kExec when the command itself can't be executed.
struct ChildError {
  Stage stage = Stage::kLauncher;
  Error error;
};

// Descriptors that the child sends: its terminal's master, its seccomp listener.
enum class Passed : char { kTerminal = 't', kListener = 'n' };

// Not thread-safe. Each end is used by one process.
class Channel {
 public:
  static Result<std::pair<Channel, Channel>> make();  // parent's end, child's end

  // The child waits for the parent, step by step. ECANCELED when the parent is gone.
  Result<void> signal();
  Result<void> wait_signal();

  void send_error(const ChildError& error);
  Result<void> send_descriptor(Passed what, int fd);

  // What the child sends next: an error, a descriptor, a signal, or nothing at all when it has
  // exec'ed or died. Fails when nothing comes and a signal that is blocked would end the process.
  struct Message {
    std::optional<ChildError> error;
    UniqueFd terminal, listener;
    bool signalled = false, closed = false;
  };
  Result<Message> receive();

  // Whether nobody holds the other end any more.
  bool abandoned() const;

  void close() { fd_.reset(); }

 private:
  explicit Channel(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace umwelt::launch
