// SPDX-License-Identifier: Apache-2.0
// One JSON object as one SOCK_SEQPACKET message.
#pragma once

#include <sys/time.h>
#include <sys/un.h>

#include <chrono>
#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "base/result.h"

namespace umwelt::control {

inline constexpr std::size_t kMaxMessageBytes = 1U << 20;

// ENAMETOOLONG when the path does not fit.
Result<sockaddr_un> socket_address(const std::string& path);

inline timeval timeval_of(std::chrono::milliseconds time) {
  return {time.count() / 1000, time.count() % 1000 * 1000};
}

// Lets whole messages of kMaxMessageBytes through, as far as this process may have such buffers.
void grow_buffers(int fd);

// EAGAIN when the socket's SO_SNDTIMEO ran out, EPIPE when the peer is gone, EMSGSIZE, EINVAL when
// a string is not UTF-8.
Result<void> send_message(int fd, const nlohmann::json& message);

// nullopt when the peer closed. EAGAIN on timeout; EMSGSIZE for a message that is too long and
// EBADMSG for one that is no JSON object: those were taken off the socket, which stays usable.
Result<std::optional<nlohmann::json>> receive_message(int fd);

}  // namespace umwelt::control
