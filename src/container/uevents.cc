// SPDX-License-Identifier: Apache-2.0
#include "container/uevents.h"

#include <linux/netlink.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <string_view>

#include "base/parse.h"

namespace umwelt::container {
namespace {

// A uevent is "ACTION@DEVPATH" and KEY=VALUE strings, each ended by a zero byte.
bool is_cpu_event(std::string_view message) {
  while (!message.empty())
    if (next_part(message, '\0') == "SUBSYSTEM=cpu") return true;
  return false;
}

}  // namespace

Result<UniqueFd> open_uevents() {
  UniqueFd fd(
      ::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT));
  if (!fd) return fail_errno("socket for uevents");
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = 1;  // the kernel's own; udev's are group 2
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return fail_errno("bind for uevents");
  return fd;
}

bool told_of_cpus(int uevents) {
  std::array<char, 8192> buffer;
  bool cpus = false;
  for (;;) {
    sockaddr_nl sender{};
    iovec part{buffer.data(), buffer.size()};
    msghdr message{};
    message.msg_name = &sender;
    message.msg_namelen = sizeof sender;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    const ssize_t size = ::recvmsg(uevents, &message, 0);
    if (size < 0 && errno == ENOBUFS) cpus = true;  // events were lost
    if (size < 0 && errno != ENOBUFS && errno != EINTR) break;
    if (size > 0 && sender.nl_pid == 0)
      cpus |= is_cpu_event({buffer.data(), static_cast<std::size_t>(size)});
  }
  return cpus;
}

}  // namespace umwelt::container
