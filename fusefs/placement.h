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
// The scheduler wakes a thread on a CPU that is idle. Where all who ask are bound to one CPU, as in
// a container with one, that can take longer than all else: an idle CPU is woken for each request,
// and the reader's own for the answer. On that CPU there is no other to wake, but no other to do
// the work either. Which is better depends on the machine and on the number of readers. So while
// all are bound to one CPU, both is tried, the better one is kept for some time, and then it is
// tried again. When one asks that is not bound to that CPU, the threads run anywhere, and for a
// while they stay so: no reader can keep them at a CPU that it keeps busy. What was better on a CPU
// is known when all are there again.
//
// Thread-safe.
class Placement {
 public:
  // A thread of this process; at first all have the CPUs of the one that calls.
  void add(pid_t thread);

  // `caller` is 0 for what the kernel asks by itself; the time is monotonic_ns().
  void on_request(pid_t caller, std::uint64_t now_ns);

  static constexpr std::uint32_t kFirstWindow = 16;  // requests
  static constexpr std::uint32_t kWindow = 1024;
  static constexpr std::uint32_t kKeep = 64;  // windows with the better one
  static constexpr std::uint64_t kPauseNs = 100'000'000;
  static constexpr std::uint64_t kIdleNs = 1'000'000;  // longer between two: nobody asked

 private:
  bool admit(pid_t caller, std::uint64_t now_ns);
  void end_window();
  void begin_window(std::uint32_t requests);
  void let_go(std::uint64_t now_ns);
  void bind(bool yes);

  std::atomic<std::uint64_t> pause_until_ns_{0};
  // Those that were seen to be bound to cpu_, by their ids, since the window began.
  std::array<std::atomic<pid_t>, 64> callers_{};
  std::atomic<std::uint64_t> last_ns_{0};
  // Of the window. A race loses a request of it.
  std::atomic<std::uint64_t> busy_ns_{0};
  std::atomic<std::uint32_t> left_{0};

  std::mutex mutex_;
  std::vector<pid_t> threads_;
  CpuSet all_, cpu_;                          // cpu_: where all who asked were bound the last time
  bool active_ = false;                       // they are, and the threads may be
  bool warming_ = false;                      // in the first window
  bool bound_ = false;                        // the threads are
  bool better_ = false;                       // so they have been faster on cpu_
  bool trying_ = false;                       // the other one
  std::uint32_t keep_ = 0;                    // windows until the other one is tried
  std::array<std::uint64_t, 2> window_ns_{};  // the last one of each: anywhere, bound
};

}  // namespace umwelt::fusefs
