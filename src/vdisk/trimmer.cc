// SPDX-License-Identifier: Apache-2.0
#include "vdisk/trimmer.h"

#include <algorithm>
#include <utility>

namespace umwelt::vdisk {
namespace {

// What is allocated beyond the live data by more than both is trimmed.
constexpr std::uint64_t kTrimBytes = 64ULL << 20;
constexpr unsigned kTrimFraction = 10;
constexpr std::chrono::milliseconds kPause{500};  // between two vdisks, so that trims don't pile up

bool worth_trimming(const Usage& usage) {
  return usage.reclaimable_bytes() > std::max(kTrimBytes, usage.live_bytes / kTrimFraction);
}

}  // namespace

std::vector<Entry> thin_in_use(const Store& store) {
  std::vector<Entry> entries;
  if (auto all = store.list())
    for (Entry& e : *all)
      if (e.in_use && e.record && e.record->cls != Class::kGuaranteed)
        entries.push_back(std::move(e));
  return entries;
}

Trimmer::Trimmer(const Store& store, unsigned interval_s)
    : store_(store), interval_s_(interval_s), thread_([this] { run(); }) {}

Trimmer::~Trimmer() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Trimmer::trim_all() {
  {
    const std::lock_guard lock(mutex_);
    wanted_ = true;
  }
  changed_.notify_one();
}

void Trimmer::run() {
  std::unique_lock lock(mutex_);
  const auto called = [this] { return wanted_ || stopping_; };
  for (;;) {
    if (interval_s_ == 0)
      changed_.wait(lock, called);
    else
      changed_.wait_until(lock, next_trim_, called);
    if (stopping_) return;
    const bool everything = std::exchange(wanted_, false);
    lock.unlock();
    if (everything)
      trim_everything();
    else
      trim_next();
    lock.lock();
  }
}

void Trimmer::trim_everything() {
  for (const Entry& e : thin_in_use(store_))
    if (const auto disk = store_.look(e.name)) (void)trim(*disk);
}

void Trimmer::trim_next() {
  const auto entries = thin_in_use(store_);
  const auto next = std::find_if(entries.begin(), entries.end(),
                                 [this](const Entry& e) { return e.name >= next_to_trim_; });
  if (next == entries.end()) {
    next_to_trim_.clear();
    next_trim_ = Clock::now() + std::chrono::seconds(interval_s_);
    return;
  }
  next_trim_ = Clock::now() + kPause;
  next_to_trim_ = next->name + '\1';  // the name after it
  const auto disk = store_.look(next->name);
  if (!disk) return;
  const auto now = usage(*disk);
  if (now && worth_trimming(*now)) (void)trim(*disk);
}

}  // namespace umwelt::vdisk
