// SPDX-License-Identifier: Apache-2.0
#include "fusefs/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <span>

#include "base/descriptor_message.h"
#include "base/log.h"
#include "base/parse.h"

namespace umwelt::fusefs {

ServiceManager ServiceManager::from_environment() {
  ServiceManager manager;
  const char* address = std::getenv("NOTIFY_SOCKET");
  if (address == nullptr || (address[0] != '/' && address[0] != '@')) return manager;
  if (std::strlen(address) >= sizeof(sockaddr_un::sun_path)) return manager;
  manager.address_ = address;
  manager.socket_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));

  const char* pid = std::getenv("WATCHDOG_PID");
  const char* time = std::getenv("WATCHDOG_USEC");
  const auto time_us = time == nullptr ? std::nullopt : parse_u64(time);
  if (time_us && (pid == nullptr || pid == std::to_string(::getpid())))
    manager.interval_ = std::chrono::milliseconds(std::max<std::uint64_t>(1, *time_us / 2000));
  return manager;
}

void ServiceManager::notify(const std::string& state, int fd) const {
  if (address_.empty()) return;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, address_.data(), address_.size());
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address_.size());
  if (send_message(socket_.get(), state, std::span(&fd, fd >= 0 ? 1 : 0), 0, &address, bytes) < 0)
    spdlog::warn("notify the service manager: {}", std::strerror(errno));
}

void ServiceManager::keep(const std::string& name, int fd) const {
  // FDPOLL=0: it is not to watch them, and to drop those that it finds hung up.
  notify("FDSTORE=1\nFDPOLL=0\nFDNAME=" + name, fd);
}

void ServiceManager::drop(const std::string& name) const {
  notify("FDSTOREREMOVE=1\nFDNAME=" + name);
}

}  // namespace umwelt::fusefs
