// SPDX-License-Identifier: Apache-2.0
#include "cgroup/cgroupstats.h"

#include <linux/cgroupstats.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string>

namespace umwelt::cgroup {
namespace {

template <class T>
std::optional<T> take(std::string_view& rest) {
  if (rest.size() < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, rest.data(), sizeof(T));
  rest.remove_prefix(sizeof(T));
  return value;
}

// The attributes of a generic netlink message that answers `sequence`.
Result<std::string_view> parse_answer(std::string_view message, std::uint32_t sequence) {
  std::string_view rest = message;
  const auto header = take<nlmsghdr>(rest);
  if (!header || header->nlmsg_len < sizeof(nlmsghdr) || header->nlmsg_len > message.size())
    return fail(EBADMSG, "netlink message");
  if (header->nlmsg_seq != sequence) return fail(EAGAIN, "netlink message");
  rest = rest.substr(0, header->nlmsg_len - sizeof(nlmsghdr));
  if (header->nlmsg_type == NLMSG_ERROR) {
    const auto error = take<std::int32_t>(rest);
    return fail(error && *error < 0 && *error > -4096 ? -*error : EBADMSG, "cgroupstats");
  }
  if (!take<genlmsghdr>(rest)) return fail(EBADMSG, "netlink message");
  return rest;
}

std::optional<std::string_view> find_attribute(std::string_view attributes, unsigned type) {
  std::string_view rest = attributes;
  while (const auto header = take<nlattr>(rest)) {
    if (header->nla_len < sizeof(nlattr) || header->nla_len - sizeof(nlattr) > rest.size())
      return std::nullopt;
    const std::size_t size = header->nla_len - sizeof(nlattr);
    if ((header->nla_type & NLA_TYPE_MASK) == type) return rest.substr(0, size);
    rest.remove_prefix(std::min<std::size_t>(NLA_ALIGN(size), rest.size()));
  }
  return std::nullopt;
}

// Sends one request with one attribute; the answer is a view into `buffer`.
class Request {
 public:
  Request(std::uint16_t family, std::uint32_t sequence, std::uint8_t command,
          std::uint16_t attribute, std::string_view value) {
    const auto attribute_size = static_cast<std::uint16_t>(sizeof(nlattr) + value.size());
    const nlmsghdr header{static_cast<std::uint32_t>(sizeof(nlmsghdr) + sizeof(genlmsghdr) +
                                                     NLA_ALIGN(attribute_size)),
                          family, NLM_F_REQUEST, sequence, 0};
    const genlmsghdr generic{command, 1, 0};
    const nlattr attribute_header{attribute_size, attribute};
    append(&header, sizeof(header));
    append(&generic, sizeof(generic));
    append(&attribute_header, sizeof(attribute_header));
    message_.append(value);
    message_.resize(header.nlmsg_len);
  }

  Result<void> send(int socket) const {
    const ssize_t sent = ::send(socket, message_.data(), message_.size(), 0);
    if (sent < 0) return fail_errno("send to the taskstats socket");
    return {};
  }

 private:
  void append(const void* data, std::size_t size) {
    message_.append(static_cast<const char*>(data), size);
  }
  std::string message_;
};

using Buffer = std::array<char, 4096>;

Result<std::string_view> receive(int socket, Buffer& buffer) {
  ssize_t size = -1;
  do {
    size = ::recv(socket, buffer.data(), buffer.size(), 0);
  } while (size < 0 && errno == EINTR);
  if (size < 0) {
    const int code = errno == EAGAIN ? ETIMEDOUT : errno;
    return fail(code, "receive from the taskstats socket");
  }
  return std::string_view(buffer.data(), static_cast<std::size_t>(size));
}

Result<std::uint16_t> read_family(int socket) {
  constexpr std::uint32_t kSequence = 0;
  UMWELT_CHECK(Request(GENL_ID_CTRL, kSequence, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME,
                       std::string_view(TASKSTATS_GENL_NAME, sizeof(TASKSTATS_GENL_NAME)))
                   .send(socket));
  Buffer buffer;
  const auto message = UMWELT_TRY(receive(socket, buffer));
  const auto attributes = UMWELT_TRY(parse_answer(message, kSequence));
  auto id = find_attribute(attributes, CTRL_ATTR_FAMILY_ID);
  const auto family = id ? take<std::uint16_t>(*id) : std::nullopt;
  if (!family) return fail(EBADMSG, "taskstats family");
  return *family;
}

}  // namespace

Result<TaskStates> parse_cgroupstats(std::string_view message, std::uint32_t sequence) {
  const auto attributes = UMWELT_TRY(parse_answer(message, sequence));
  auto value = find_attribute(attributes, CGROUPSTATS_TYPE_CGROUP_STATS);
  const auto stats = value ? take<cgroupstats>(*value) : std::nullopt;
  if (!stats) return fail(EBADMSG, "cgroupstats");
  return TaskStates{stats->nr_running, stats->nr_sleeping, stats->nr_uninterruptible,
                    stats->nr_stopped, stats->nr_io_wait};
}

Result<Cgroupstats> Cgroupstats::open() {
  Cgroupstats opened;
  opened.socket_.reset(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC));
  if (!opened.socket_) return fail_errno("taskstats socket");
  // The kernel answers within send(2); a lost answer must not hold the caller for ever.
  const timeval timeout{1, 0};
  if (::setsockopt(opened.socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) != 0)
    return fail_errno("taskstats socket");
  opened.family_ = UMWELT_TRY(read_family(opened.socket_.get()));
  return opened;
}

Result<TaskStates> Cgroupstats::read(int directory) {
  const std::uint32_t sequence = ++sequence_;
  const auto fd = static_cast<std::uint32_t>(directory);
  char value[sizeof(fd)];
  std::memcpy(value, &fd, sizeof(fd));
  UMWELT_CHECK(Request(family_, sequence, CGROUPSTATS_CMD_GET, CGROUPSTATS_CMD_ATTR_FD,
                       std::string_view(value, sizeof(value)))
                   .send(socket_.get()));
  Buffer buffer;
  for (;;) {
    const auto message = UMWELT_TRY(receive(socket_.get(), buffer));
    auto states = parse_cgroupstats(message, sequence);
    if (states || states.error().code != EAGAIN) {
      if (!states && states.error().code == ENOENT) return fail(ENODEV, "cgroupstats");
      return states;
    }
  }
}

}  // namespace umwelt::cgroup
