// SPDX-License-Identifier: Apache-2.0
#include "fusefs/placement.h"

#include <algorithm>

#include "intercept/task.h"

namespace umwelt::fusefs {

void Placement::add(pid_t thread) {
  const std::lock_guard lock(mutex_);
  if (threads_.empty())
    if (auto own = intercept::get_affinity(0)) now_ = all_ = *std::move(own);
  threads_.push_back(thread);
}

void Placement::on_request(pid_t caller, std::uint64_t now_ns) {
  if (caller == 0) return;
  const Run last = run_.load(std::memory_order_relaxed);
  const Run run{caller, last.caller == caller ? last.length + 1 : 1};
  run_.store(run, std::memory_order_relaxed);
  if (run.length == 1 && bound_.load(std::memory_order_relaxed) && !is_next(caller)) let_go(now_ns);
  if (run.length % kLookEvery == kFirstLook) follow(caller, now_ns);
}

// On the same CPU, and not one that was served before.
bool Placement::is_next(pid_t caller) {
  const auto cpus = intercept::get_affinity(caller);
  const std::lock_guard lock(mutex_);
  if (!cpus || *cpus != now_ || std::ranges::count(served_, caller) != 0) return false;
  served_[served_count_++ % served_.size()] = caller;
  return true;
}

void Placement::follow(pid_t caller, std::uint64_t now_ns) {
  const auto cpus = intercept::get_affinity(caller);
  if (!cpus) return;
  const std::lock_guard lock(mutex_);
  if (cpus->count() != 1 || !all_.contains(*cpus)) return place(all_);
  if (*cpus == now_ || now_ns < pause_until_ns_) return;
  place(*cpus);
  served_ = {caller};
  served_count_ = 1;
}

void Placement::let_go(std::uint64_t now_ns) {
  const std::lock_guard lock(mutex_);
  pause_until_ns_ = now_ns + kPauseNs;
  place(all_);
}

void Placement::place(const CpuSet& cpus) {
  if (cpus == now_) return;
  // One that refuses, since its cpuset has changed, runs where it ran.
  for (const pid_t thread : threads_) (void)intercept::set_affinity(thread, cpus);
  now_ = cpus;
  bound_ = now_ != all_;
}

}  // namespace umwelt::fusefs
