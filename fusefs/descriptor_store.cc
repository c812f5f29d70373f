// SPDX-License-Identifier: Apache-2.0
#include "fusefs/descriptor_store.h"

#include <fcntl.h>
#include <poll.h>

#include <algorithm>

#include "base/log.h"

namespace umwelt::fusefs {
namespace {

constexpr std::size_t kMaxName = 200;

bool valid(const std::string& name) {
  return !name.empty() && name.size() <= kMaxName &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return c > ' ' && c < 127 && c != ':'; });
}

Result<UniqueFd> copy(int fd) {
  UniqueFd result(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!result) return fail_errno("copy a descriptor");
  return result;
}

// The keeper never leaves the channel for long. If it is gone, hand_over() tells the next one.
Result<void> send(KeeperChannel& channel, Verb verb, const std::string& name, int fd) {
  for (;;) {
    auto sent = channel.send(verb, name, fd);
    if (sent || sent.error().code == EPIPE || sent.error().code == ECONNRESET) return {};
    if (sent.error().code != EAGAIN) return sent;
    pollfd entry{channel.fd(), POLLOUT, 0};
    if (::poll(&entry, 1, 1000) == 0) return sent;
  }
}

}  // namespace

Result<void> DescriptorStore::keep(const std::string& name, int fd) {
  if (!valid(name)) return fail(EINVAL, "keep a descriptor as \"" + name + "\"");
  UniqueFd own = UMWELT_TRY(copy(fd));
  const std::lock_guard lock(mutex_);
  UMWELT_CHECK(send(channel_, Verb::kKeep, name, fd));
  kept_[name] = std::move(own);
  return {};
}

void DescriptorStore::drop(const std::string& name) {
  const std::lock_guard lock(mutex_);
  kept_.erase(name);
  if (const auto sent = send(channel_, Verb::kDrop, name, -1); !sent)
    spdlog::warn("drop the descriptor {}: {}", name, sent.error().message());
}

Result<std::map<std::string, UniqueFd>> DescriptorStore::copies() const {
  std::map<std::string, UniqueFd> result;
  for (const auto& [name, fd] : kept_) result[name] = UMWELT_TRY(copy(fd.get()));
  return result;
}

Result<std::map<std::string, UniqueFd>> DescriptorStore::taken() {
  const std::lock_guard lock(mutex_);
  return copies();
}

Result<void> DescriptorStore::hand_over(
    const std::function<Result<void>(std::map<std::string, UniqueFd>)>& replace) {
  const std::lock_guard lock(mutex_);
  return replace(UMWELT_TRY(copies()));
}

}  // namespace umwelt::fusefs
