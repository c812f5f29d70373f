// SPDX-License-Identifier: Apache-2.0
#include "fusefs/keeper_channel.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

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
  iovec part{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof(int));
  }
  const std::lock_guard lock(mutex_);
  if (::sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
    return fail_errno("send to the other process");
  return {};
}

Result<std::optional<Message>> KeeperChannel::receive() {
  char bytes[kMaxText + 1];
  iovec part{bytes, sizeof(bytes)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  const ssize_t size = ::recvmsg(fd_.get(), &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (size == 0 || (size < 0 && errno == ECONNRESET)) return std::optional<Message>();
  if (size < 0) return fail_errno("receive from the other process");
  Message message;
  message.verb = static_cast<Verb>(bytes[0]);
  message.text.assign(bytes + 1, static_cast<std::size_t>(size) - 1);
  const cmsghdr* rights = CMSG_FIRSTHDR(&header);
  if (rights != nullptr && rights->cmsg_type == SCM_RIGHTS) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(rights), sizeof(int));
    message.fd.reset(fd);
  }
  return std::optional(std::move(message));
}

}  // namespace umwelt::fusefs
