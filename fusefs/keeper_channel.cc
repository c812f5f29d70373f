// SPDX-License-Identifier: Apache-2.0
#include "fusefs/keeper_channel.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <span>
#include <vector>

#include "base/descriptor_message.h"

namespace umwelt::fusefs {
namespace {

constexpr std::size_t kMaxText = 4000;

}  // namespace

Result<std::pair<UniqueFd, UniqueFd>> KeeperChannel::make_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
    return fail_errno("make a channel");
  return std::pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

void KeeperChannel::replace(UniqueFd fd) {
  const std::lock_guard lock(mutex_);
  if (::dup3(fd.get(), fd_.get(), O_CLOEXEC) < 0) fd_ = std::move(fd);  // the number stays
}

Result<void> KeeperChannel::send(Verb verb, const std::string& text, int fd) {
  std::string bytes(1, static_cast<char>(verb));
  bytes += text.substr(0, kMaxText);
  const std::lock_guard lock(mutex_);
  if (send_message(fd_.get(), bytes, std::span(&fd, fd >= 0 ? 1 : 0), MSG_DONTWAIT) < 0)
    return fail_errno("send to the other process");
  return {};
}

Result<std::optional<Message>> KeeperChannel::receive() {
  std::array<char, kMaxText + 1> bytes;
  std::vector<UniqueFd> descriptors;
  const ssize_t size = receive_message(fd_.get(), bytes, descriptors, MSG_DONTWAIT);
  if (size == 0 || (size < 0 && errno == ECONNRESET)) return std::optional<Message>();
  if (size < 0) return fail_errno("receive from the other process");
  Message message;
  message.verb = static_cast<Verb>(bytes[0]);
  message.text.assign(bytes.data() + 1, static_cast<std::size_t>(size) - 1);
  if (!descriptors.empty()) message.fd = std::move(descriptors.front());
  return std::optional(std::move(message));
}

}  // namespace umwelt::fusefs
