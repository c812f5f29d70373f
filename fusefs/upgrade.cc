// SPDX-License-Identifier: Apache-2.0
#include "fusefs/upgrade.h"

namespace umwelt::fusefs {

Result<void> Upgrade::request(const std::string& program) {
  std::unique_lock lock(mutex_);
  if (asked_) return fail(EBUSY, "an upgrade is under way");
  UMWELT_CHECK(channel_.send(Verb::kUpgrade, program));
  asked_ = true;
  changed_.wait(lock, [&] { return settled_ || refused_; });
  asked_ = false;
  if (settled_) return {};
  auto error = fail(0, "umweltd goes on as it was: " + *refused_);
  refused_.reset();
  return error;
}

void Upgrade::refuse(const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (!asked_) return;
  refused_ = why;
  changed_.notify_all();
}

void Upgrade::settle() {
  const std::lock_guard lock(mutex_);
  settled_ = true;
  changed_.notify_all();
}

}  // namespace umwelt::fusefs
