// SPDX-License-Identifier: Apache-2.0
#include <sys/socket.h>

#include <nlohmann/json.hpp>

#include "base/unique_fd.h"
#include "control/message.h"
#include "targets.h"

int fuzz_control_message(const std::uint8_t* data, std::size_t size) {
  using namespace umwelt;
  if (size == 0) return 0;
  int pair[2];
  FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
  const UniqueFd sender(pair[0]), receiver(pair[1]);
  control::grow_buffers(sender.get());
  if (send(sender.get(), data, size, MSG_NOSIGNAL) != static_cast<ssize_t>(size)) return 0;
  const auto message = control::receive_message(receiver.get());
  FUZZ_CHECK(message || message.error().code == EBADMSG || message.error().code == EMSGSIZE);
  if (!message || !*message) return 0;
  FUZZ_CHECK((*message)->is_object());
  // A message that was received can be sent on.
  FUZZ_CHECK(control::send_message(sender.get(), **message));
  const auto again = control::receive_message(receiver.get());
  FUZZ_CHECK(again && *again && **again == **message);
  return 0;
}
