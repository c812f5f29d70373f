// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "base/result.h"
#include "host/facts.h"

namespace umwelt::host {

// Which parts of Facts a caller needs (bits).
enum Part : unsigned {
  kCpus = 1U << 0,
  kMeminfo = 1U << 1,
  kStat = 1U << 2,
  kSwaps = 1U << 3,
  kUptime = 1U << 4,
  kLoadavg = 1U << 5,
  kVmstat = 1U << 6,
  kDiskstats = 1U << 7,
  kPartitions = 1U << 8,
  kInterrupts = 1U << 9,
  kSoftirqs = 1U << 10,
  kSchedstat = 1U << 11,
  kZoneinfo = 1U << 12,
  kBuddyinfo = 1U << 13,
  kSlabinfo = 1U << 14,
  kControllers = 1U << 15,
  kRecentMeminfo = 1U << 16,  // meminfo, but not older than a second: for what hardly ever changes
  kPressure = 1U << 23,
  kNodeMeminfo = 1U << 24,  // reads the CPUs too
};

// Reads the machine's own files, each at most once per tick (kTick), however many threads and
// containers ask; holds the descriptors open. Thread-safe. `root` is "/" or a folder with a
// recorded proc/ and sys/ for tests.
class Reader {
 public:
  static constexpr std::chrono::milliseconds kTick{10};

  static Result<std::unique_ptr<Reader>> open(const std::string& root = "/");
  ~Reader();

  // The asked parts, not older than kTick (kCpus: until cpus_changed() or a change of the online
  // CPUs, the nodes or those with memory that the call itself notices within a second).
  Result<Facts> read(unsigned parts);

  // Forget the CPUs, after hotplug.
  void cpus_changed();

 private:
  Reader();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace umwelt::host
