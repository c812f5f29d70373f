// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "base/unique_fd.h"

namespace umwelt::fusefs {

// The service manager that started us, if one did: sd_notify(3), sd_watchdog_enabled(3), and the
// store of descriptors (FileDescriptorStoreMax= in systemd.service(5)), from which they come back
// when everything of us was killed. Says nothing where there is none. Not thread-safe.
class ServiceManager {
 public:
  // What $NOTIFY_SOCKET and $WATCHDOG_USEC say. They are left there, for a program that takes over.
  static ServiceManager from_environment();

  bool exists() const { return !address_.empty(); }
  void notify(const std::string& state, int fd = -1) const;
  void keep(const std::string& name, int fd) const;
  void drop(const std::string& name) const;

  // How often to notify it of WATCHDOG=1.
  std::optional<std::chrono::milliseconds> watchdog_interval() const { return interval_; }

 private:
  std::string address_;
  std::optional<std::chrono::milliseconds> interval_;
  UniqueFd socket_;
};

}  // namespace umwelt::fusefs
