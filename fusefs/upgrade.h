// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>

#include "base/result.h"
#include "fusefs/keeper_channel.h"

namespace umwelt::fusefs {

// An upgrade as the server that is to be replaced sees it. Thread-safe.
class Upgrade {
 public:
  explicit Upgrade(KeeperChannel& channel) : channel_(channel) {}

  // Asks for one and waits until the new program is prepared to serve; then this server retires.
  Result<void> request(const std::string& program);

  // What came of it: it was refused, or this server ends.
  void refuse(const std::string& why);
  void settle();

 private:
  KeeperChannel& channel_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool asked_ = false, settled_ = false;
  std::optional<std::string> refused_;
};

}  // namespace umwelt::fusefs
