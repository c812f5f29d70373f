// SPDX-License-Identifier: Apache-2.0
#include "launch/channel.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <csignal>
#include <cstring>
#include <vector>

#include "base/descriptor_message.h"

namespace umwelt::launch {
namespace {

constexpr std::size_t kMaxText = 2000;
constexpr char kSignal = 's';
constexpr int kPatienceMs = 1000;

// Blocked signals, of which supervise() would be the one to know.
bool is_told_to_end() {
  sigset_t pending;
  if (::sigpending(&pending) != 0) return false;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT})
    if (::sigismember(&pending, signal) == 1) return true;
  return false;
}

}  // namespace

Result<std::pair<Channel, Channel>> Channel::make() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0)
    return fail_errno("socketpair");
  return std::pair(Channel(UniqueFd(ends[0])), Channel(UniqueFd(ends[1])));
}

Result<void> Channel::signal() {
  if (::send(fd_.get(), &kSignal, 1, MSG_NOSIGNAL) != 1) return fail_errno("talk to the child");
  return {};
}

Result<void> Channel::wait_signal() {
  char byte = 0;
  ssize_t n;
  do {
    n = ::recv(fd_.get(), &byte, 1, 0);
  } while (n < 0 && errno == EINTR);
  if (n != 1 || byte != kSignal) return fail(ECANCELED, "wait for the launcher");
  return {};
}

void Channel::send_error(const ChildError& error) {
  std::string text(1, static_cast<char>(error.stage));
  text.append(reinterpret_cast<const char*>(&error.error.code), sizeof(error.error.code));
  text += error.error.text.substr(0, kMaxText);
  (void)send_message(fd_.get(), text);
}

Result<void> Channel::send_descriptor(Passed what, int fd) {
  const char byte = static_cast<char>(what);
  if (send_message(fd_.get(), {&byte, 1}, {&fd, 1}) != 1) return fail_errno("send a descriptor");
  return {};
}

Result<Channel::Message> Channel::receive() {
  pollfd state{fd_.get(), POLLIN, 0};
  while (::poll(&state, 1, kPatienceMs) == 0)
    if (is_told_to_end()) return fail(0, "a signal came before the command was started");
  std::array<char, 1 + sizeof(int) + kMaxText> buffer{};
  std::vector<UniqueFd> descriptors;
  ssize_t n;
  do {
    n = receive_message(fd_.get(), buffer, descriptors);
    // ECONNRESET comes once, before what the other end said: it died without having read all.
  } while (n < 0 && errno == ECONNRESET);
  Message message;
  if (n == 0) {
    message.closed = true;
    return message;
  }
  if (n < 0) return fail_errno("hear from the child");
  UniqueFd descriptor = descriptors.empty() ? UniqueFd() : std::move(descriptors.front());
  if (buffer[0] == static_cast<char>(Passed::kTerminal)) {
    message.terminal = std::move(descriptor);
    return message;
  }
  if (buffer[0] == static_cast<char>(Passed::kListener)) {
    message.listener = std::move(descriptor);
    return message;
  }
  if (buffer[0] == kSignal) {
    message.signalled = true;
    return message;
  }
  if (static_cast<std::size_t>(n) < 1 + sizeof(int)) return fail(EPROTO, "hear from the child");
  ChildError error;
  error.stage = static_cast<Stage>(buffer[0]);
  std::memcpy(&error.error.code, buffer.data() + 1, sizeof(int));
  error.error.text.assign(buffer.data() + 1 + sizeof(int),
                          static_cast<std::size_t>(n) - 1 - sizeof(int));
  message.error = std::move(error);
  return message;
}

bool Channel::abandoned() const {
  pollfd state{fd_.get(), 0, 0};
  return ::poll(&state, 1, 0) != 0;
}

}  // namespace umwelt::launch
