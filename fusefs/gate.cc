// SPDX-License-Identifier: Apache-2.0
#include "fusefs/gate.h"

#include <utility>

namespace umwelt::fusefs {

bool Gate::is_closed(std::uint64_t container, pid_t tid) {
  const std::lock_guard lock(mutex_);
  const auto item = entries_.find(container);
  return item != entries_.end() && item->second.closed && item->second.settler != tid;
}

bool Gate::hold(std::uint64_t container, Request request) {
  const std::lock_guard lock(mutex_);
  const auto item = entries_.find(container);
  if (item == entries_.end() || !item->second.closed) return false;
  item->second.held.push_back(std::move(request));
  return true;
}

std::uint64_t Gate::generation(std::uint64_t container, std::uint64_t current) {
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[container];
  if (entry.generation == 0) entry.generation = current;
  return entry.generation;
}

void Gate::close(std::uint64_t container) {
  const std::lock_guard lock(mutex_);
  entries_[container].closed = true;
}

void Gate::settle(std::uint64_t container, std::uint64_t generation, pid_t tid) {
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[container];
  entry.generation = generation;
  entry.settler = tid;
}

void Gate::open(std::uint64_t container, std::uint64_t generation) {
  std::vector<Request> held;
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_[container];
    entry.closed = false;
    entry.settler = 0;
    entry.generation = generation;
    held = std::exchange(entry.held, {});
  }
  for (const Request& request : held) request();
}

void Gate::forget(std::uint64_t container) {
  const std::lock_guard lock(mutex_);
  entries_.erase(container);
}

}  // namespace umwelt::fusefs
