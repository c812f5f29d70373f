// SPDX-License-Identifier: Apache-2.0
#include "fusefs/placement.h"

#include <algorithm>

#include "intercept/task.h"

namespace umwelt::fusefs {

void Placement::add(pid_t thread) {
  const std::lock_guard lock(mutex_);
  if (threads_.empty())
    if (auto own = intercept::get_affinity(0)) all_ = *std::move(own);
  threads_.push_back(thread);
}

void Placement::on_request(pid_t caller, std::uint64_t now_ns) {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  if (caller == 0 || now_ns < pause_until_ns_.load(kRelaxed)) return;
  const pid_t known = callers_[static_cast<std::size_t>(caller) % callers_.size()].load(kRelaxed);
  if (known != caller && !admit(caller, now_ns)) return;
  const std::uint64_t last_ns = last_ns_.exchange(now_ns, kRelaxed);
  if (now_ns > last_ns && now_ns - last_ns < kIdleNs)
    busy_ns_.fetch_add(now_ns - last_ns, kRelaxed);
  if (left_.fetch_sub(1, kRelaxed) == 1) end_window();
}

bool Placement::admit(pid_t caller, std::uint64_t now_ns) {
  const auto cpus = intercept::get_affinity(caller);
  if (!cpus) return false;  // it is gone
  const std::lock_guard lock(mutex_);
  if (cpus->count() != 1 || !all_.contains(*cpus) || (active_ && *cpus != cpu_)) {
    let_go(now_ns);
    return false;
  }
  if (!active_) {
    if (*cpus != cpu_) keep_ = 0;
    cpu_ = *cpus;
    active_ = warming_ = true;
    trying_ = false;
    begin_window(kFirstWindow);
  }
  callers_[static_cast<std::size_t>(caller) % callers_.size()] = caller;
  return true;
}

void Placement::end_window() {
  const std::lock_guard lock(mutex_);
  if (!active_) return;
  const std::uint64_t took_ns = busy_ns_.load(std::memory_order_relaxed);
  begin_window(kWindow);
  if (warming_) {
    warming_ = false;
    if (keep_ == 0) better_ = true;
    keep_ = std::max(keep_, 1U);
    return bind(better_);
  }
  window_ns_[bound_ ? 1 : 0] = took_ns;
  if (--keep_ != 0) return;
  if (!trying_) {
    trying_ = true;
    keep_ = 1;
    return bind(!bound_);
  }
  trying_ = false;
  keep_ = kKeep;
  // There, unless it takes much longer: half as much CPU time goes into each request.
  better_ = window_ns_[1] <= window_ns_[0] + window_ns_[0] / 8;
  bind(better_);
}

void Placement::begin_window(std::uint32_t requests) {
  for (auto& caller : callers_) caller.store(0, std::memory_order_relaxed);
  busy_ns_.store(0, std::memory_order_relaxed);
  left_.store(requests, std::memory_order_relaxed);
}

void Placement::let_go(std::uint64_t now_ns) {
  pause_until_ns_ = now_ns + kPauseNs;
  begin_window(kFirstWindow);
  bind(false);
  active_ = false;
}

void Placement::bind(bool yes) {
  if (yes == bound_) return;
  bound_ = yes;
  // One that refuses, since its cpuset has changed, runs where it ran.
  for (const pid_t thread : threads_) (void)intercept::set_affinity(thread, yes ? cpu_ : all_);
}

}  // namespace umwelt::fusefs
