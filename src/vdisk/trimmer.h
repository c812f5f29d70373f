// SPDX-License-Identifier: Apache-2.0
// Gives the space of deleted files back to the host, in a thread of its own: a trim may take
// seconds while somebody writes, and whoever watches the host's space must not wait for it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "vdisk/store.h"

namespace umwelt::vdisk {

// Those of containers that run, of a class that gives space back.
std::vector<Entry> thin_in_use(const Store& store);

class Trimmer {
 public:
  // Every `interval_s` (0: never) it trims, one vdisk at a time, what holds more than 64 MiB and
  // 10 % without need. `store` must outlive it.
  Trimmer(const Store& store, unsigned interval_s);
  ~Trimmer();  // waits for a trim that is under way
  Trimmer(const Trimmer&) = delete;
  Trimmer& operator=(const Trimmer&) = delete;

  // Soon, everything. Thread-safe; does not wait.
  void trim_all();

 private:
  using Clock = std::chrono::steady_clock;
  void run();
  void trim_everything();
  void trim_next();

  const Store& store_;
  const unsigned interval_s_;
  std::mutex mutex_;  // guards the next two
  bool wanted_ = false, stopping_ = false;
  std::condition_variable changed_;
  // Of the thread alone:
  Clock::time_point next_trim_ = Clock::now();
  std::string next_to_trim_;  // name
  std::thread thread_;
};

}  // namespace umwelt::vdisk
