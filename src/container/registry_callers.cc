// SPDX-License-Identifier: Apache-2.0
// The registry's containers that nobody registered: made for who asks.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/parse.h"
#include "container/caller_cache.h"
#include "container/record_files.h"
#include "container/registry.h"

namespace umwelt::container {
namespace {

using json = nlohmann::json;
using ContainerPtr = Registry::ContainerPtr;

// Limits of on-demand containers, which nothing watches, are read again when older than this.
constexpr std::uint64_t kOnDemandLimitsAge = 100'000'000U;
constexpr std::chrono::milliseconds kOpeningPatience{500};
constexpr std::size_t kMaxOpenings = 64;

}  // namespace

std::vector<ContainerPtr> Registry::on_demand() const {
  std::shared_lock lock(mutex_);
  return callers_->containers();
}

void Registry::load_callers() {
  std::set<std::string> files;
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator(callers_dir_, code))
    files.insert(entry.path());
  std::set<std::string> strays = files;
  for (const std::string& file : files) {
    auto kept = load_caller(file);
    if (!kept) continue;
    strays.erase(file);
    strays.erase(kept->history);
    std::unique_lock lock(mutex_);
    callers_->keep(std::move(*kept));
  }
  for (const std::string& stray : strays) ::unlink(stray.c_str());
  remove_dropped();
}

Result<Kept> Registry::load_caller(const std::string& file) {
  const std::filesystem::path path(file);
  const auto number = parse_u64(path.stem().native());
  if (path.extension() != kRecordSuffix || !number) return fail(EINVAL, file + " is no record");
  next_caller_ = std::max(next_caller_.load(), *number + 1);
  Kept kept;
  kept.history = caller_file(*number, kHistorySuffix);
  kept.record = UMWELT_TRY(read_record(file));
  const auto history = UMWELT_TRY(HistoryFile(kept.history).load());
  if (!history) return fail(ENOENT, kept.history);
  kept.used_ns = std::max(history->sampled_ns(), std::uint64_t{1});
  return kept;
}

std::string Registry::caller_file(std::uint64_t number, const char* suffix) const {
  return callers_dir_ + "/" + std::to_string(number) + suffix;
}

void Registry::remove_dropped() {
  std::vector<std::string> dropped;
  {
    std::unique_lock lock(mutex_);
    dropped = callers_->take_dropped();
  }
  for (const std::string& history : dropped) {
    HistoryFile::remove(history);
    ::unlink(beside(history, kRecordSuffix).c_str());
  }
}

Result<ContainerPtr> Registry::by_caller(pid_t pid) {
  const std::string_view text = UMWELT_TRY(read_proc_cgroup(pid));
  {
    std::shared_lock lock(mutex_);
    if (ContainerPtr container = callers_->registered(text)) return container;
  }
  const std::uint64_t now = boottime_ns();
  const std::string cgroup_text(text);
  const Namespaces namespaces = UMWELT_TRY(read_namespaces(pid));
  {
    std::shared_lock lock(mutex_);
    if (ContainerPtr container = callers_->on_demand(cgroup_text, namespaces, now))
      return container;
  }
  const cgroup::Paths paths = UMWELT_TRY(cgroup::parse_proc_cgroup(cgroup_text));
  {
    std::unique_lock lock(mutex_);
    if (ContainerPtr container = registered_for(paths)) {
      callers_->remember_registered(cgroup_text, container);
      return container;
    }
  }
  auto container = open_on_demand(pid, cgroup_text, namespaces, paths);
  std::unique_lock lock(mutex_);
  // A registration since then comes first, at the next look-up too.
  if (ContainerPtr registered = registered_for(paths)) return registered;
  if (!container && (container.error().code == ETIMEDOUT || container.error().code == EAGAIN)) {
    // An answer is out of date long before it is wrong.
    if (ContainerPtr last = callers_->last_answer(cgroup_text, namespaces)) return last;
  }
  if (container) callers_->remember(cgroup_text, namespaces, *container, now);
  return container;
}

// What looks for files in directories of a container, which may have them locked, is done apart.
Result<ContainerPtr> Registry::open_on_demand(pid_t pid, const std::string& cgroup_text,
                                              const Namespaces& namespaces,
                                              const cgroup::Paths& paths) {
  const auto apart = UMWELT_TRY(opening(cgroup_text));
  Described caller = UMWELT_TRY(
      apart->run<Described>(Apart::shared(kOpeningPatience),
                            [=, own = own_, hierarchies = hierarchies_]() -> Result<Described> {
                              return describe_caller(pid, namespaces, own, paths, hierarchies);
                            }));
  return make_on_demand(std::move(caller), *apart);
}

// One at a time for a cgroup.
Result<std::shared_ptr<Apart>> Registry::opening(const std::string& cgroup_text) {
  const std::lock_guard lock(openings_mutex_);
  std::erase_if(openings_, [](const auto& entry) {
    return entry.second.use_count() == 1 && !entry.second->busy();
  });
  const auto known = openings_.find(cgroup_text);
  if (known != openings_.end()) return known->second;
  if (openings_.size() >= kMaxOpenings)
    return fail(EAGAIN, "the cgroups of too many others can't be opened");
  return openings_[cgroup_text] = std::make_shared<Apart>();
}

// Of the descriptors of on-demand containers.
void Registry::make_room() {
  {
    std::unique_lock lock(mutex_);
    callers_->clear();
  }
  remove_dropped();
}

Result<Container::Opened> Registry::open_cgroup(const cgroup::Paths& paths, Apart& apart,
                                                Apart::Clock::duration patience) {
  return with_room([&] {
    return apart.run<Container::Opened>(
        patience, [paths, hierarchies = hierarchies_, host = host_]() -> Result<Container::Opened> {
          return Container::open_cgroup(paths, hierarchies, *host);
        });
  });
}

Result<ContainerPtr> Registry::make_on_demand(Described caller, Apart& apart) {
  Record& record = caller.record;
  std::optional<Kept> kept;
  {
    std::shared_lock lock(mutex_);
    if (ContainerPtr container = callers_->find(record)) return container;
    kept = callers_->find_kept(record);
    if (!kept && caller.init_unknown) {
      if (ContainerPtr container = callers_->find_any(record.cgroup_paths)) return container;
      kept = callers_->find_any_kept(record.cgroup_paths);
    }
  }
  Container::Opened opened =
      UMWELT_TRY(open_cgroup(record.cgroup_paths, apart, Apart::shared(kOpeningPatience)));
  // The record of one that is kept has the inode: it is not of another cgroup of that name.
  const bool goes_on = kept && kept->record.cgroup_inode == opened.reader.inode();
  ContainerPtr made =
      UMWELT_TRY(Container::make(goes_on ? std::move(kept->record) : std::move(record),
                                 std::move(opened), host_, kOnDemandLimitsAge));
  made->keep_history_in(goes_on ? kept->history : caller_file(next_caller_++, kHistorySuffix));
  {
    std::unique_lock lock(mutex_);
    if (ContainerPtr container = callers_->find(made->record())) return container;
    callers_->insert(made);
  }
  remove_dropped();
  if (goes_on) return made;
  // A path that is not UTF-8 becomes another one, which no cgroup has.
  const auto text = to_json(made->record()).dump(-1, ' ', false, json::error_handler_t::replace);
  const auto saved = write_state(beside(made->history_path(), kRecordSuffix), text);
  if (!saved) spdlog::warn("{}", saved.error().message());
  return made;
}

void Registry::sweep(std::uint64_t now_ns) {
  {
    std::unique_lock lock(mutex_);
    callers_->sweep(now_ns);
  }
  remove_dropped();
}

}  // namespace umwelt::container
