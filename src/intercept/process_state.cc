// SPDX-License-Identifier: Apache-2.0
#include "intercept/process_state.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "base/descriptor_message.h"
#include "container/json_fields.h"
#include "container/record.h"

namespace umwelt::intercept {
namespace {

using container::find_field;
using container::read_field;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxBytes = 1U << 20;
constexpr std::size_t kMaxReplyBytes = 4096;

Result<void> wait_readable(int socket, Clock::time_point deadline) {
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd entry{socket, POLLIN, 0};
    const int ready = left <= 0 ? 0 : ::poll(&entry, 1, static_cast<int>(left));
    if (ready > 0) return {};
    if (ready == 0) return fail(ETIMEDOUT, "receive from a socket");
    if (errno != EINTR) return fail_errno("poll");
  }
}

// Appends what there is; false at the end of the stream.
Result<bool> receive_some(int socket, std::string& text, std::vector<UniqueFd>& descriptors) {
  std::array<char, 65536> buffer;
  const ssize_t n = receive_message(socket, buffer, descriptors, MSG_DONTWAIT);
  if (n < 0) {
    if (errno == EAGAIN) return true;
    return fail_errno("recvmsg");
  }
  if (text.size() + static_cast<std::size_t>(n) > kMaxBytes ||
      descriptors.size() > kMaxDescriptorsInMessage)
    return fail(EMSGSIZE, "a seccomp listener's message");
  text.append(buffer.data(), static_cast<std::size_t>(n));
  return n > 0;
}

Result<UniqueFd> connect_to(const std::string& path, int flags = 0) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return fail(ENAMETOOLONG, path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  if (!socket) return fail_errno("socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return fail_errno("connect " + path);
  return socket;
}

}  // namespace

Result<UniqueFd> listen_on(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return fail(ENAMETOOLONG, path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno("unlink " + path);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return fail_errno("socket");
  // The socket file takes its mode from the descriptor: it never exists with another one.
  if (::fchmod(socket.get(), 0600) != 0 ||
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(socket.get(), SOMAXCONN) != 0)
    return fail_errno("listen on " + path);
  return socket;
}

std::string named_container(const ProcessState& state) {
  return container::valid_id(state.metadata) ? state.metadata : kNobody;
}

Result<ProcessState> parse_process_state(std::string_view text) {
  const json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object()) return fail(EBADMSG, "no container process state");
  ProcessState state;
  const auto read = [&]() -> Result<void> {
    UMWELT_CHECK(read_field(value, "pid", state.pid));
    UMWELT_CHECK(read_field(value, "metadata", state.metadata));
    if (const json* inner = find_field(value, "state"); inner != nullptr && inner->is_object()) {
      UMWELT_CHECK(read_field(*inner, "id", state.container_id));
      UMWELT_CHECK(read_field(*inner, "pid", state.init_pid));
    }
    return {};
  };
  if (const auto done = read(); !done) return fail(EBADMSG, done.error().text);
  const json* fds = find_field(value, "fds");
  if (fds == nullptr || !fds->is_array() || fds->empty() || fds->size() > kMaxDescriptorsInMessage)
    return fail(EBADMSG, "\"fds\" must name the descriptors");
  for (const json& name : *fds) {
    if (!name.is_string()) return fail(EBADMSG, "\"fds\" must name the descriptors");
    state.fds.push_back(name.get<std::string>());
  }
  return state;
}

Result<Handed> receive_handed(int socket, std::chrono::milliseconds patience) {
  const auto deadline = Clock::now() + patience;
  std::string text;
  std::vector<UniqueFd> descriptors;
  std::optional<ProcessState> state;
  for (bool more = true; more && !state;) {
    UMWELT_CHECK(wait_readable(socket, deadline));
    more = UMWELT_TRY(receive_some(socket, text, descriptors));
    // A stream has no ends of messages; a part of an object is no object.
    if (!text.empty() && text.find_last_of('}') != std::string::npos)
      if (auto parsed = parse_process_state(text)) state = std::move(*parsed);
  }
  if (!state) return fail(text.empty() ? ENODATA : EBADMSG, "no container process state");
  Handed handed;
  for (std::size_t i = 0; i < state->fds.size() && i < descriptors.size(); ++i) {
    if (state->fds[i] == kListenerName) handed.listener = std::move(descriptors[i]);
    if (state->fds[i] == kNoticeName) handed.notice = std::move(descriptors[i]);
  }
  if (!handed.listener) return fail(EBADMSG, "no seccomp listener");
  handed.state = std::move(*state);
  return handed;
}

bool somebody_listens(const std::string& socket_path) {
  const auto socket = connect_to(socket_path, SOCK_NONBLOCK);
  // EAGAIN: its backlog is full. EPROTOTYPE: it has one, of another type than ours (unix(7)).
  return socket || socket.error().code == EAGAIN || socket.error().code == EPROTOTYPE;
}

namespace {

Result<void> hand_over_once(const std::string& socket_path, const std::string& id, int listener,
                            int notice, Clock::time_point deadline) {
  const UniqueFd socket = UMWELT_TRY(connect_to(socket_path));
  const json message = {{"ociVersion", "1.0.2"},
                        {"fds", {kListenerName, kNoticeName}},
                        {"metadata", id},
                        {"state", {{"id", id}}}};
  std::string text = message.dump();
  const int fds[] = {listener, notice};
  if (send_message(socket.get(), text, fds) != static_cast<ssize_t>(text.size()))
    return fail_errno("send a seccomp listener");
  text.clear();
  std::vector<UniqueFd> none;
  for (bool more = true; more && text.size() < kMaxReplyBytes;) {
    UMWELT_CHECK(wait_readable(socket.get(), deadline));
    more = UMWELT_TRY(receive_some(socket.get(), text, none));
  }
  const json reply = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!reply.is_object()) return fail(ECONNRESET, "the daemon did not take the seccomp listener");
  Error error;
  UMWELT_CHECK(read_field(reply, "errno", error.code));
  UMWELT_CHECK(read_field(reply, "error", error.text));
  if (error.code == 0 && error.text.empty()) return {};
  return fail(std::move(error));
}

}  // namespace

Result<void> hand_over(const std::string& socket_path, const std::string& id, int listener,
                       int notice, std::chrono::milliseconds patience) {
  const auto deadline = Clock::now() + patience;
  for (;;) {
    auto done = hand_over_once(socket_path, id, listener, notice, deadline);
    const bool replaced = !done && (done.error().code == ECONNRESET || done.error().code == EPIPE);
    if (!replaced || Clock::now() > deadline) return done;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

void acknowledge(int socket, const Result<void>& result) {
  const json reply = result ? json::object()
                            : json{{"errno", result.error().code}, {"error", result.error().text}};
  const std::string text = reply.dump(-1, ' ', true, json::error_handler_t::replace);
  (void)::send(socket, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace umwelt::intercept
