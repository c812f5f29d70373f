// SPDX-License-Identifier: Apache-2.0
#include "fusefs/live_files.h"

#include <ctime>

namespace umwelt::fusefs {
namespace {

bool same_file(const LiveFiles::Subject& a, const LiveFiles::Subject& b) {
  return a.node == b.node && !a.container.owner_before(b.container) &&
         !b.container.owner_before(a.container);
}

bool same(const LiveFiles::Subject& a, const LiveFiles::Subject& b) {
  return a.generation == b.generation && same_file(a, b);
}

}  // namespace

// Counted from the time of the start: no process opens a billion files a second.
LiveFiles::LiveFiles() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  next_handle_ = static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U +
                 static_cast<std::uint64_t>(now.tv_nsec);
}

void LiveFiles::release(std::uint64_t handle) {
  Shard& shard = shards_[handle % kShards];
  Text text;  // freed after the lock
  const std::lock_guard lock(shard.mutex);
  const auto item = shard.snapshots.find(handle);
  if (item == shard.snapshots.end()) return;
  text = std::move(item->second);
  shard.bytes -= text->size();
  shard.snapshots.erase(item);
}

Text LiveFiles::snapshot(std::uint64_t handle) {
  {
    Shard& shard = shards_[handle % kShards];
    const std::lock_guard lock(shard.mutex);
    const auto item = shard.snapshots.find(handle);
    if (item != shard.snapshots.end()) return item->second;
  }
  return outliving_ != nullptr ? outlived(handle, outliving_->get(handle)) : nullptr;
}

Text LiveFiles::outlived(std::uint64_t handle, std::optional<std::string> text) {
  if (!text) return nullptr;
  const auto snapshot = std::make_shared<const std::string>(*std::move(text));
  keep(handle, snapshot);
  return snapshot;
}

Result<Text> LiveFiles::take_snapshot(std::uint64_t handle, const Subject& subject,
                                      const Render& render, std::uint64_t request) {
  if (outliving_ != nullptr && request != 0)
    if (Text text = outlived(handle, outliving_->get(handle, request))) return text;
  Text text = UMWELT_TRY(shared_text(subject, render));
  keep(handle, text);
  if (outliving_ != nullptr) outliving_->put(handle, text, request);
  return text;
}

Result<Text> LiveFiles::shared_text(const Subject& subject, const Render& render) {
  Shared& slot = shared(subject);
  const std::lock_guard lock(slot.mutex);
  const std::uint64_t now_ns = monotonic_ns();
  if (slot.text && now_ns - slot.made_ns < subject.share_ns && same(slot.subject, subject))
    return slot.text;
  slot.text = nullptr;
  slot.text = std::make_shared<const std::string>(UMWELT_TRY(render()));
  slot.subject = subject;
  slot.made_ns = now_ns;
  return slot.text;
}

Result<std::size_t> LiveFiles::size(const Subject& subject, const Render& render) {
  Shared& slot = shared(subject);
  {
    const std::lock_guard lock(slot.mutex);
    if (slot.text && same_file(slot.subject, subject)) return slot.text->size();
  }
  return UMWELT_TRY(shared_text(subject, render))->size();
}

std::size_t LiveFiles::bytes() {
  std::size_t sum = 0;
  for (Shard& shard : shards_) {
    const std::lock_guard lock(shard.mutex);
    sum += shard.bytes;
  }
  return sum;
}

void LiveFiles::keep(std::uint64_t handle, const Text& text) {
  Shard& shard = shards_[handle % kShards];
  const std::lock_guard lock(shard.mutex);
  Text& snapshot = shard.snapshots[handle];
  if (snapshot) shard.bytes -= snapshot->size();
  snapshot = text;
  shard.bytes += text->size();
  while (shard.snapshots.size() > 1 &&
         (shard.snapshots.size() > kMaxSnapshots || shard.bytes > kMaxBytes)) {
    auto victim = shard.snapshots.begin();
    if (victim->first == handle) ++victim;
    shard.bytes -= victim->second->size();
    shard.snapshots.erase(victim);
  }
}

}  // namespace umwelt::fusefs
