// SPDX-License-Identifier: Apache-2.0
#include "container/caller_cache.h"

#include <sys/resource.h>

#include <algorithm>
#include <iterator>

#include "base/parse.h"

namespace umwelt::container {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000U;
// The init of a pid namespace may move to another cgroup, and namespace inodes come back.
constexpr std::uint64_t kAnswerAge = 5 * kSecond;
constexpr std::uint64_t kIdle = 60 * kSecond;
constexpr std::size_t kMaxAnswers = 64;  // namespaces that share one cgroup

// A new one has its start as long as nobody has read it.
std::uint64_t used_ns(const Container& container) {
  return std::max(container.last_read_ns(), container.opened_ns());
}

template <class Map>
typename Map::const_iterator first_of(const Map& map, const cgroup::Paths& paths) {
  const auto found = map.lower_bound({paths, 0});
  return found == map.end() || found->first.first != paths ? map.end() : found;
}

// One holds a few dozen descriptors on a machine with many hierarchies; most are for those that are
// registered.
std::size_t most_containers() {
  constexpr rlim_t kDescriptorsPerContainer = 64;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return CallerCache::kMaxOfOneCgroup;
  return static_cast<std::size_t>(std::clamp<rlim_t>(limit.rlim_cur / kDescriptorsPerContainer,
                                                     CallerCache::kMaxOfOneCgroup,
                                                     CallerCache::kMaxContainers));
}

}  // namespace

CallerCache::CallerCache() : max_containers_(most_containers()) {}

CallerCache::ContainerPtr CallerCache::registered(std::string_view cgroup_text) const {
  const auto found = texts_.find(cgroup_text);
  if (found == texts_.end() || !found->second.registered) return nullptr;
  return found->second.registered->gone() ? nullptr : found->second.registered;
}

CallerCache::ContainerPtr CallerCache::on_demand(std::string_view cgroup_text,
                                                 const Namespaces& namespaces,
                                                 std::uint64_t now_ns) const {
  const auto found = texts_.find(cgroup_text);
  if (found == texts_.end()) return nullptr;
  for (const Answer& answer : found->second.answers)
    if (answer.namespaces == namespaces && saturating_sub(now_ns, answer.given_ns) < kAnswerAge)
      if (ContainerPtr container = answer.container.lock(); container && !container->gone())
        return container;
  return nullptr;
}

CallerCache::ContainerPtr CallerCache::last_answer(std::string_view cgroup_text,
                                                   const Namespaces& namespaces) const {
  return on_demand(cgroup_text, namespaces, 0);
}

CallerCache::ContainerPtr CallerCache::find(const Record& record) const {
  const auto found = containers_.find(key_of(record));
  return found == containers_.end() || found->second->gone() ? nullptr : found->second;
}

CallerCache::ContainerPtr CallerCache::find_any(const cgroup::Paths& paths) const {
  const auto found = first_of(containers_, paths);
  return found == containers_.end() || found->second->gone() ? nullptr : found->second;
}

CallerCache::Known& CallerCache::known(const std::string& cgroup_text) {
  if (texts_.size() >= kMaxTexts && !texts_.contains(cgroup_text)) texts_.clear();
  return texts_[cgroup_text];
}

void CallerCache::remember_registered(const std::string& cgroup_text,
                                      const ContainerPtr& container) {
  known(cgroup_text).registered = container;
}

void CallerCache::remember(const std::string& cgroup_text, const Namespaces& namespaces,
                           const ContainerPtr& container, std::uint64_t now_ns) {
  std::vector<Answer>& answers = known(cgroup_text).answers;
  std::erase_if(answers, [&](const Answer& answer) { return answer.namespaces == namespaces; });
  if (answers.size() >= kMaxAnswers) answers.erase(answers.begin());
  answers.push_back({namespaces, container, now_ns});
}

void CallerCache::insert(const ContainerPtr& container) {
  const Key key = key_of(container->record());
  if (!containers_.contains(key)) {
    const auto [begin, end] = cgroup_range(containers_, key);
    if (static_cast<std::size_t>(std::distance(begin, end)) >= kMaxOfOneCgroup)
      drop_oldest(begin, end);
    else if (containers_.size() >= max_containers_)
      drop_oldest(containers_.begin(), containers_.end());
  }
  const std::string& history = container->history_path();
  ContainerPtr& place = containers_[key];
  if (place && place->history_path() != history) dropped_.push_back(place->history_path());
  place = container;
  const auto kept = kept_.find(key);
  if (kept == kept_.end()) return;
  if (kept->second.history != history) dropped_.push_back(kept->second.history);
  kept_.erase(kept);
}

void CallerCache::drop_oldest(Containers::iterator begin, Containers::iterator end) {
  const auto oldest = std::min_element(begin, end, [](const auto& a, const auto& b) {
    return used_ns(*a.second) < used_ns(*b.second);
  });
  keep_or_drop(*oldest->second);
  containers_.erase(oldest);
}

void CallerCache::forget_oldest(KeptContainers::iterator begin, KeptContainers::iterator end) {
  const auto oldest = std::min_element(
      begin, end, [](const auto& a, const auto& b) { return a.second.used_ns < b.second.used_ns; });
  dropped_.push_back(std::move(oldest->second.history));
  kept_.erase(oldest);
}

void CallerCache::clear() {
  for (const auto& [key, container] : containers_) keep_or_drop(*container);
  containers_.clear();
  forget_callers();
}

void CallerCache::keep_or_drop(const Container& container) {
  if (container.gone())
    dropped_.push_back(container.history_path());
  else
    keep({container.record(), container.history_path(), container.last_read_ns()});
}

std::optional<Kept> CallerCache::find_kept(const Record& record) const {
  const auto found = kept_.find(key_of(record));
  return found == kept_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<Kept> CallerCache::find_any_kept(const cgroup::Paths& paths) const {
  const auto found = first_of(kept_, paths);
  return found == kept_.end() ? std::nullopt : std::optional(found->second);
}

void CallerCache::keep(Kept kept) {
  // It was shown nothing that a later one could contradict.
  if (kept.used_ns == 0) return dropped_.push_back(std::move(kept.history));
  const Key key = key_of(kept.record);
  if (!kept_.contains(key)) {
    const auto [begin, end] = cgroup_range(kept_, key);
    if (static_cast<std::size_t>(std::distance(begin, end)) >= kMaxOfOneCgroup)
      forget_oldest(begin, end);
    else if (kept_.size() >= kMaxKept)
      forget_oldest(kept_.begin(), kept_.end());
  }
  Kept& place = kept_[key];
  if (!place.history.empty()) dropped_.push_back(std::move(place.history));
  place = std::move(kept);
}

void CallerCache::sweep(std::uint64_t now_ns) {
  std::erase_if(containers_, [&](const auto& entry) {
    const Container& container = *entry.second;
    if (!container.gone() && saturating_sub(now_ns, used_ns(container)) <= kIdle) return false;
    keep_or_drop(container);
    return true;
  });
  for (auto& [text, known] : texts_)
    std::erase_if(known.answers, [&](const Answer& answer) {
      return saturating_sub(now_ns, answer.given_ns) >= kIdle;
    });
  std::erase_if(texts_, [](const auto& entry) {
    return !entry.second.registered && entry.second.answers.empty();
  });
}

std::vector<CallerCache::ContainerPtr> CallerCache::containers() const {
  std::vector<ContainerPtr> out;
  for (const auto& [key, container] : containers_) out.push_back(container);
  return out;
}

}  // namespace umwelt::container
