// SPDX-License-Identifier: Apache-2.0
#include "fusefs/config_files.h"

#include <algorithm>

#include "fusefs/node.h"
#include "fusefs/snapshots.h"

namespace umwelt::fusefs {
namespace {

constexpr long kSecondNs = 1'000'000'000;

// Now, but later than `previous`: two versions made within one tick of the clock differ as well.
timespec next_mtime(const timespec& previous) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  if (now.tv_sec > previous.tv_sec ||
      (now.tv_sec == previous.tv_sec && now.tv_nsec > previous.tv_nsec))
    return now;
  now = previous;
  if (++now.tv_nsec == kSecondNs) {
    ++now.tv_sec;
    now.tv_nsec = 0;
  }
  return now;
}

}  // namespace

std::uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * kSecondNs +
         static_cast<std::uint64_t>(now.tv_nsec);
}

ConfigFiles::Record* ConfigFiles::find(Shard& shard, std::uint64_t node, const Validity& validity) {
  const auto item = shard.records.find(node);
  if (item != shard.records.end()) return &item->second;
  if (outliving_ == nullptr) return nullptr;
  {
    const std::lock_guard lock(recalled_mutex_);
    if (recalled_.contains(NodeId::from(node).container)) return nullptr;
  }
  auto text = outliving_->get(node);
  if (!text) return nullptr;
  Record& record = shard.records[node];
  record.version.text = std::make_shared<const std::string>(*std::move(text));
  record.version.mtime = next_mtime({});
  record.generation = validity.generation;
  return &record;
}

Result<Version> ConfigFiles::describe(std::uint64_t node, const Validity& validity,
                                      const Render& render) {
  Shard& shard = this->shard(node);
  const std::uint64_t now_ns = monotonic_ns();
  {
    const std::lock_guard lock(shard.mutex);
    const Record* record = find(shard, node, validity);
    if (record != nullptr && record->generation >= validity.generation &&
        (validity.max_age_ns == 0 || now_ns - record->made_ns < validity.max_age_ns))
      return record->version;
  }
  std::string text = UMWELT_TRY(render());

  const std::lock_guard lock(shard.mutex);
  Record& record = shard.records[node];
  // Another thread may have described it meanwhile. Of two descriptions the kernel may keep either,
  // so under one generation there is one, also when the limits have changed between the two.
  if (record.version.text && validity.max_age_ns == 0 && record.generation >= validity.generation)
    return record.version;
  record.generation = validity.generation;
  record.made_ns = now_ns;
  if (!record.version.text || *record.version.text != text) {
    record.version.mtime = next_mtime(record.version.mtime);
    record.version.text = std::make_shared<const std::string>(std::move(text));
    if (outliving_ != nullptr) outliving_->put(node, record.version.text);
  }
  Version version = record.version;
  if (shard.records.size() > kMaxRecords) {
    auto victim = shard.records.begin();
    if (victim->first == node) ++victim;
    shard.records.erase(victim);
  }
  return version;
}

Result<Text> ConfigFiles::content(std::uint64_t node, const Validity& validity,
                                  const Render& render) {
  Shard& shard = this->shard(node);
  {
    const std::lock_guard lock(shard.mutex);
    if (Record* record = find(shard, node, validity)) {
      record->read = true;
      return record->version.text;
    }
  }
  return UMWELT_TRY(describe(node, validity, render)).text;
}

void ConfigFiles::forget_container(std::uint64_t container) {
  {
    const std::lock_guard lock(recalled_mutex_);
    recalled_.erase(container);
  }
  for (Shard& shard : shards_) {
    const std::lock_guard lock(shard.mutex);
    std::erase_if(shard.records, [&](const auto& item) {
      return NodeId::from(item.first).container == container;
    });
  }
}

bool ConfigFiles::confirm(std::uint64_t node, std::uint64_t generation, const std::string& text) {
  Shard& shard = this->shard(node);
  const std::lock_guard lock(shard.mutex);
  const auto item = shard.records.find(node);
  if (item == shard.records.end() || *item->second.version.text != text) return false;
  item->second.generation = std::max(item->second.generation, generation);
  return true;
}

void ConfigFiles::recall_all(std::uint64_t container, std::uint64_t generation,
                             const std::vector<std::uint64_t>& nodes) {
  if (outliving_ == nullptr) return;
  for (const std::uint64_t node : nodes) {
    Shard& shard = this->shard(node);
    const std::lock_guard lock(shard.mutex);
    find(shard, node, {generation, 0});
  }
  const std::lock_guard lock(recalled_mutex_);
  recalled_.insert(container);
}

void ConfigFiles::outdate(std::uint64_t node) {
  Shard& shard = this->shard(node);
  const std::lock_guard lock(shard.mutex);
  const auto item = shard.records.find(node);
  if (item == shard.records.end()) return;
  item->second.generation = 0;
  item->second.read = false;
}

bool ConfigFiles::was_read(std::uint64_t node) {
  Shard& shard = this->shard(node);
  const std::lock_guard lock(shard.mutex);
  const auto item = shard.records.find(node);
  return item != shard.records.end() && item->second.read;
}

std::vector<std::uint64_t> ConfigFiles::nodes_of(std::uint64_t container) {
  std::vector<std::uint64_t> nodes;
  for (Shard& shard : shards_) {
    const std::lock_guard lock(shard.mutex);
    for (const auto& [node, record] : shard.records)
      if (NodeId::from(node).container == container) nodes.push_back(node);
  }
  return nodes;
}

std::size_t ConfigFiles::size() {
  std::size_t count = 0;
  for (Shard& shard : shards_) {
    const std::lock_guard lock(shard.mutex);
    count += shard.records.size();
  }
  return count;
}

}  // namespace umwelt::fusefs
