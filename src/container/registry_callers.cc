// SPDX-License-Identifier: Apache-2.0
// The registry's containers that nobody registered: made for who asks.
#include <fmt/format.h>
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
  auto caller = find_out(pid, cgroup_text, namespaces, paths);
  if (!caller && caller.error().code == EMFILE) {
    make_room();
    caller = find_out(pid, cgroup_text, namespaces, paths);
  }
  if (!caller) return fail(caller.error());
  ContainerPtr container = UMWELT_TRY(make_on_demand(*std::move(caller)));
  std::unique_lock lock(mutex_);
  // A registration since then comes first, at the next look-up too.
  if (ContainerPtr registered = registered_for(paths)) return registered;
  callers_->remember(cgroup_text, namespaces, container, now);
  return container;
}

// Looks for files in directories of the container, which may have them locked.
Result<Registry::Caller> Registry::find_out(pid_t pid, const std::string& cgroup_text,
                                            const Namespaces& namespaces,
                                            const cgroup::Paths& paths) {
  const auto apart =
      UMWELT_TRY(opening(fmt::format("{} {} {}", namespaces.pid, namespaces.cgroup, cgroup_text)));
  auto found = apart->run<Caller>(
      kOpeningPatience,
      [=, own = own_, hierarchies = hierarchies_, host = host_]() -> Result<Caller> {
        Described described = UMWELT_TRY(describe_caller(pid, namespaces, own, paths, hierarchies));
        auto opened =
            UMWELT_TRY(Container::open_cgroup(described.record.cgroup_paths, hierarchies, *host));
        return Caller{std::move(described), std::move(opened)};
      });
  if (!found && found.error().code == ETIMEDOUT)
    return fail(ETIMEDOUT, "open the cgroup of process " + std::to_string(pid));
  return found;
}

Result<std::shared_ptr<Apart>> Registry::opening(const std::string& caller) {
  const std::lock_guard lock(openings_mutex_);
  std::erase_if(openings_, [](const auto& entry) {
    return entry.second.use_count() == 1 && !entry.second->busy();
  });
  const auto known = openings_.find(caller);
  if (known != openings_.end()) return known->second;
  if (openings_.size() >= kMaxOpenings)
    return fail(EAGAIN, "the cgroups of too many others can't be opened");
  return openings_[caller] = std::make_shared<Apart>();
}

// Of the descriptors of on-demand containers.
void Registry::make_room() {
  {
    std::unique_lock lock(mutex_);
    callers_->clear();
  }
  remove_dropped();
}

Result<ContainerPtr> Registry::make_on_demand(Caller caller) {
  auto& [record, init_unknown] = caller.described;
  std::optional<Kept> kept;
  {
    std::shared_lock lock(mutex_);
    if (ContainerPtr container = callers_->find(record)) return container;
    kept = callers_->find_kept(record);
    if (!kept && init_unknown)
      if (ContainerPtr container = callers_->find_any(record.cgroup_paths)) return container;
  }
  // The record of one that is kept has the inode: it is not of another cgroup of that name.
  const bool goes_on = kept && (kept->record.cgroup_inode == caller.opened.reader.inode());
  ContainerPtr made =
      UMWELT_TRY(Container::make(goes_on ? std::move(kept->record) : std::move(record),
                                 std::move(caller.opened), host_, kOnDemandLimitsAge));
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
