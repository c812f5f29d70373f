// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "fusefs/keeper_channel.h"

namespace umwelt::fusefs {

// Descriptors that outlive the server: the keeper holds them (and systemd, where that started it),
// and the next server gets them. Thread-safe.
class DescriptorStore {
 public:
  // `kept` is what an earlier server kept. `channel` must outlive it.
  DescriptorStore(KeeperChannel& channel, std::map<std::string, UniqueFd> kept)
      : channel_(channel), kept_(std::move(kept)) {}

  // Keeps a copy of `fd` from now on, also if this process is killed at once. One of the same name
  // is replaced. `name` is like "listener/web": of at most 200 printable characters and without a
  // colon (EINVAL).
  Result<void> keep(const std::string& name, int fd);
  void drop(const std::string& name);

  // Copies of all that is kept. To be asked for at the start.
  Result<std::map<std::string, UniqueFd>> taken();

  // Runs `replace`, which is given copies of all that is kept, while nothing else is kept or
  // dropped: for a new keeper.
  Result<void> hand_over(
      const std::function<Result<void>(std::map<std::string, UniqueFd>)>& replace);

 private:
  Result<std::map<std::string, UniqueFd>> copies() const;

  KeeperChannel& channel_;
  std::mutex mutex_;  // guards kept_, which always is what the keeper has
  std::map<std::string, UniqueFd> kept_;
};

}  // namespace umwelt::fusefs
