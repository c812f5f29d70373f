// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "base/cpu_set.h"

namespace umwelt::fusefs {

// Where the threads of a connection run.
//
// The scheduler wakes a thread on a CPU that is idle, which is right for many readers, but not for
// one that is bound to a CPU and waits for each answer: waking an idle CPU for the request and then
// the reader's for the answer takes longer than all else. So while one thread at a time asks, and
// is bound to one CPU, it is served there. When one asks that is not bound to that CPU, or in turns
// with another, the threads run anywhere again, and for a while they stay so: no reader can keep
// them at a CPU that it keeps busy.
//
// Thread-safe.
class Placement {
 public:
  // A thread of this process; at first all have the CPUs of the one that calls.
  void add(pid_t thread);

  // `caller` is 0 for what the kernel asks by itself; the time is monotonic_ns().
  void on_request(pid_t caller, std::uint64_t now_ns);

  static constexpr std::uint32_t kFirstLook = 16;  // requests of one thread in a row
  static constexpr std::uint32_t kLookEvery = 256;
  static constexpr std::uint64_t kPauseNs = 100'000'000;

 private:
  void follow(pid_t caller, std::uint64_t now_ns);
  void let_go(std::uint64_t now_ns);
  bool is_next(pid_t caller);
  void place(const CpuSet& cpus);

  struct Run {  // of requests of one thread
    pid_t caller = 0;
    std::uint32_t length = 0;
  };
  std::atomic<Run> run_{};  // a race loses a request of it
  std::atomic<bool> bound_{false};

  std::mutex mutex_;
  std::vector<pid_t> threads_;
  CpuSet all_, now_;
  std::array<pid_t, 64> served_{};  // since the threads were bound; the last ones
  std::size_t served_count_ = 0;
  std::uint64_t pause_until_ns_ = 0;
};

}  // namespace umwelt::fusefs
