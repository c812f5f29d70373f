// SPDX-License-Identifier: Apache-2.0
#include "control/message.h"

#include <sys/socket.h>

#include <cstring>
#include <nlohmann/json.hpp>

namespace umwelt::control {

Result<sockaddr_un> socket_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path))
    return fail(ENAMETOOLONG, "socket path \"" + path + "\"");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

void grow_buffers(int fd) {
  // The sender's buffer bounds a message (unix(7)); FORCE needs CAP_NET_ADMIN.
  const int bytes = static_cast<int>(kMaxMessageBytes);
  if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0)
    ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

Result<void> send_message(int fd, const nlohmann::json& message) {
  std::string text;
  try {
    text = message.dump();
  } catch (const nlohmann::json::exception& exception) {
    return fail(EINVAL, std::string("message is not UTF-8: ") + exception.what());
  }
  if (text.size() > kMaxMessageBytes) return fail(EMSGSIZE, "send on the control socket");
  ssize_t n;
  do {
    n = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return fail_errno("send on the control socket");
  return {};
}

Result<std::optional<nlohmann::json>> receive_message(int fd) {
  char first;
  ssize_t size;
  do {
    size = ::recv(fd, &first, 1, MSG_PEEK | MSG_TRUNC);
  } while (size < 0 && errno == EINTR);
  if (size < 0) return fail_errno("receive on the control socket");
  const bool fits = static_cast<std::size_t>(size) <= kMaxMessageBytes;
  std::string text(fits ? static_cast<std::size_t>(size) : 1, '\0');
  ssize_t n;
  do {
    n = ::recv(fd, text.data(), text.size(), 0);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return fail_errno("receive on the control socket");
  if (!fits) return fail(EMSGSIZE, "message of " + std::to_string(size) + " bytes");
  // An empty message reads like the end of the stream; nobody of ours sends one.
  if (n == 0) return std::optional<nlohmann::json>();
  auto message = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!message.is_object()) return fail(EBADMSG, "the message is not a JSON object");
  return std::optional<nlohmann::json>(std::move(message));
}

}  // namespace umwelt::control
