// SPDX-License-Identifier: Apache-2.0
#include "container/registry.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/file.h"
#include "base/log.h"
#include "base/parse.h"
#include "container/caller_cache.h"
#include "container/record_files.h"

namespace umwelt::container {
namespace {

using ContainerPtr = Registry::ContainerPtr;

constexpr const char* kNextNumberFile = "/next-number";
constexpr const char* kViewsSuffix = ".views";  // launch/attach.h
// Numbers are reserved on disk in blocks, so that most containers cost no write for theirs.
constexpr std::uint64_t kNumberBlock = 64;
// For files in a directory that a container may keep locked. At a start all others wait.
constexpr std::chrono::milliseconds kRegistrationPatience{5000}, kLoadingPatience{2000},
    kLatePatience{100};

std::string describe(const Record& record) { return "container \"" + record.id + "\""; }

bool init_lives(const Record& record) {
  return record.init_pid == 0 || process_lives(record.init_pid, record.init_starttime);
}

bool same_init(const Record& a, const Record& b) {
  return a.init_pid != 0 && a.init_pid == b.init_pid && a.init_starttime == b.init_starttime;
}

// Or never was: its init process or its cgroup, or the record is not what it should be.
bool is_gone(const Error& error) {
  return error.code == ESRCH || error.code == ENODEV || error.code == ENOENT ||
         error.code == EINVAL;
}

// What the record leaves out and its init process tells.
Result<void> complete(Record& record, const Namespaces& own) {
  if (record.init_pid != 0) {
    const ProcessStat stat = UMWELT_TRY(read_process_stat(record.init_pid));
    if (record.init_starttime == 0) record.init_starttime = stat.starttime;
    if (record.init_starttime != stat.starttime || stat.state == 'Z' || stat.state == 'X')
      return fail(ESRCH,
                  "init process " + std::to_string(record.init_pid) + " of " + describe(record));
    if (record.cgroup_paths.empty())
      record.cgroup_paths = UMWELT_TRY(read_cgroups_of_init(record.init_pid, own));
  }
  if (record.cgroup_paths.empty()) return fail(EINVAL, describe(record) + " has no cgroup");
  if (record.start_boottime_ns == 0)
    record.start_boottime_ns = record.init_starttime == 0
                                   ? boottime_ns()
                                   : starttime_to_boottime_ns(record.init_starttime);
  if (record.start_realtime_s == 0)
    record.start_realtime_s = boottime_to_realtime_s(record.start_boottime_ns);
  return {};
}

Result<Record> read_living(const std::filesystem::path& file) {
  Record record = UMWELT_TRY(read_record(file));
  if (record.number == 0 || file.stem() != record.id)
    return fail(EINVAL, "the record is not of this file");
  if (!init_lives(record)) return fail(ESRCH, "its init process");
  return record;
}

}  // namespace

// One registration or removal at a time of a container's id, for as long as this lives. Taken
// before any lock.
class Registry::Turn {
 public:
  Turn(Registry& registry, std::string id) : registry_(registry), id_(std::move(id)) {
    std::unique_lock lock(registry_.change_mutex_);
    registry_.turn_over_.wait(lock, [&] { return registry_.changing_.insert(id_).second; });
  }
  ~Turn() {
    {
      const std::lock_guard lock(registry_.change_mutex_);
      registry_.changing_.erase(id_);
    }
    registry_.turn_over_.notify_all();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Registry& registry_;
  const std::string id_;
};

Registry::Registry(std::string records_dir, cgroup::Hierarchies hierarchies,
                   std::shared_ptr<host::Reader> host)
    : records_dir_(std::move(records_dir)),
      callers_dir_(records_dir_ + "/callers"),
      hierarchies_(std::move(hierarchies)),
      host_(std::move(host)),
      own_(read_namespaces(::getpid()).value_or(Namespaces{})),
      callers_(std::make_unique<CallerCache>()) {}

Registry::~Registry() = default;

void Registry::observe(Observer observer) { observers_.push_back(std::move(observer)); }

Result<unsigned> Registry::load() {
  UMWELT_CHECK(make_directories(callers_dir_));
  const auto next = read_file(records_dir_ + kNextNumberFile);

  std::vector<std::string> ids;
  std::uint64_t last_number = 0;
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator(records_dir_, code)) {
    if (entry.path().extension() != kRecordSuffix) continue;
    auto record = read_living(entry.path());
    if (!record && is_gone(record.error())) {
      spdlog::info("record {} dropped: {}", entry.path().native(), record.error().message());
      remove_files(entry.path().stem());
      continue;
    }
    if (record) last_number = std::max(last_number, record->number);
    ids.push_back(entry.path().stem());
  }
  if (code) return fail(code.value(), "list " + records_dir_);
  {
    const std::lock_guard lock(change_mutex_);
    if (next) reserved_numbers_ = next_number_ = parse_u64(trim(*next)).value_or(1);
    next_number_ = std::max(next_number_, last_number + 1);
    for (const std::string& id : ids) late_.emplace(id, std::make_shared<Apart>());
  }
  unsigned loaded = 0;
  Apart::Clock::duration patience = kLoadingPatience;
  for (const std::string& id : ids) {
    const Loaded now = load_late(id, patience);
    loaded += now == Loaded::kYes ? 1 : 0;
    if (now != Loaded::kLate) continue;
    spdlog::warn("the record or the cgroups of container {} can't be opened yet", id);
    patience = kLatePatience;
  }
  load_callers();
  return loaded;
}

// kNo: it was dropped.
Registry::Loaded Registry::load_late(const std::string& id, Apart::Clock::duration patience) {
  const Turn turn(*this, id);
  std::shared_ptr<Apart> apart;
  {
    const std::lock_guard lock(change_mutex_);
    const auto late = late_.find(id);
    if (late == late_.end()) return Loaded::kNo;  // removed, or made anew, since then
    apart = late->second;
  }
  const std::string file = records_dir_ + "/" + id + kRecordSuffix;
  auto record = read_living(file);
  auto container = record ? open_recorded(*record, *apart, patience) : fail(record.error());
  if (!container && !is_gone(container.error())) {
    spdlog::debug("container {}: {}", id, container.error().message());
    return Loaded::kLate;
  }
  {
    const std::lock_guard lock(change_mutex_);
    late_.erase(id);
  }
  if (container) {
    insert(*container);
    return Loaded::kYes;
  }
  spdlog::info("record {} dropped: {}", file, container.error().message());
  remove_files(id);
  return Loaded::kNo;
}

void Registry::load_late() {
  std::vector<std::string> ids;
  {
    const std::lock_guard lock(change_mutex_);
    for (const auto& [id, apart] : late_)
      if (!apart->busy()) ids.push_back(id);
  }
  for (const std::string& id : ids) (void)load_late(id, kLatePatience);
}

// Of a living one that was not opened yet, if its record can be read. Called by who has its turn.
std::optional<Record> Registry::late_record(const std::string& id) {
  {
    const std::lock_guard lock(change_mutex_);
    if (!late_.contains(id)) return std::nullopt;
  }
  auto record = read_living(records_dir_ + "/" + id + kRecordSuffix);
  if (!record) return std::nullopt;
  return *std::move(record);
}

Result<ContainerPtr> Registry::open_recorded(const Record& record, Apart& apart,
                                             Apart::Clock::duration patience) {
  Container::Opened opened = UMWELT_TRY(open_cgroup(record.cgroup_paths, apart, patience));
  ContainerPtr container =
      UMWELT_TRY(Container::make(record, std::move(opened), host_, Container::kUntilRefresh));
  container->keep_history_in(path_of(*container, kHistorySuffix));
  return container;
}

void Registry::remove_files(const std::string& id) {
  const std::string file = records_dir_ + "/" + id;
  HistoryFile::remove(file + kHistorySuffix);
  for (const char* suffix : {kViewsSuffix, kRecordSuffix}) ::unlink((file + suffix).c_str());
}

std::string Registry::path_of(const Container& container, const char* suffix) const {
  return records_dir_ + "/" + container.record().id + suffix;
}

Result<std::uint64_t> Registry::take_number() {
  const std::lock_guard lock(change_mutex_);
  if (next_number_ >= reserved_numbers_) {
    const std::uint64_t reserved = next_number_ + kNumberBlock;
    UMWELT_CHECK(write_state(records_dir_ + kNextNumberFile, std::to_string(reserved) + "\n"));
    reserved_numbers_ = reserved;
  }
  return next_number_++;
}

Result<ContainerPtr> Registry::add(Record record) {
  return with_room([&] { return add_once(record); });
}

Result<ContainerPtr> Registry::add_once(Record record) {
  if (!valid_id(record.id)) return fail(EINVAL, "container id \"" + record.id + "\"");
  UMWELT_CHECK(complete(record, own_));
  const Turn turn(*this, record.id);
  if (const ContainerPtr present = find(record.id)) {
    const Record& old = present->record();
    if (!present->gone() && init_lives(old)) {
      if (same_init(record, old)) return present;
      return fail(EEXIST, describe(record));
    }
    erase(present);
  }
  const std::optional<Record> late = late_record(record.id);
  if (late && !same_init(record, *late)) return fail(EEXIST, describe(record));
  if (late)
    record = *late;
  else
    record.number = UMWELT_TRY(take_number());
  Apart apart;
  Container::Opened opened =
      UMWELT_TRY(open_cgroup(record.cgroup_paths, apart, kRegistrationPatience));
  const ContainerPtr container = UMWELT_TRY(
      Container::make(std::move(record), std::move(opened), host_, Container::kUntilRefresh));
  std::string text;
  try {
    text = to_json(container->record()).dump(2);
  } catch (const nlohmann::json::exception&) {
    return fail(EINVAL, describe(container->record()) + " has a name or cgroup that is not UTF-8");
  }
  {
    const std::lock_guard lock(change_mutex_);
    late_.erase(container->record().id);
  }
  if (!late) {
    HistoryFile::remove(path_of(*container, kHistorySuffix));
    UMWELT_CHECK(write_state(path_of(*container, kRecordSuffix), text + "\n"));
  }
  container->keep_history_in(path_of(*container, kHistorySuffix));
  insert(container);
  return container;
}

// Called by who has its turn.
void Registry::insert(const ContainerPtr& container) {
  {
    std::unique_lock lock(mutex_);
    by_id_[container->record().id] = container;
    by_number_[container->record().number] = container;
    callers_->forget_callers();
  }
  for (const Observer& observer : observers_)
    if (observer.added) observer.added(container);
}

// The same.
bool Registry::erase(const ContainerPtr& container) {
  {
    std::unique_lock lock(mutex_);
    const auto found = by_id_.find(container->record().id);
    if (found == by_id_.end() || found->second != container) return false;
    by_id_.erase(found);
    by_number_.erase(container->record().number);
    callers_->forget_callers();
  }
  container->stop_keeping_history();
  remove_files(container->record().id);
  for (const Observer& observer : observers_)
    if (observer.removed) observer.removed(container);
  return true;
}

Result<void> Registry::remove(const std::string& id) {
  const Turn turn(*this, id);
  if (const ContainerPtr container = find(id)) {
    erase(container);
    return {};
  }
  {
    const std::lock_guard lock(change_mutex_);
    if (late_.erase(id) == 0) return fail(ENOENT, "container \"" + id + "\"");
  }
  remove_files(id);
  return {};
}

void Registry::remove(const ContainerPtr& container) {
  const Turn turn(*this, container->record().id);
  erase(container);
}

ContainerPtr Registry::find(const std::string& id) const {
  std::shared_lock lock(mutex_);
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

ContainerPtr Registry::find(std::uint64_t number) const {
  std::shared_lock lock(mutex_);
  const auto found = by_number_.find(number);
  return found == by_number_.end() ? nullptr : found->second;
}

std::vector<ContainerPtr> Registry::all() const {
  std::shared_lock lock(mutex_);
  std::vector<ContainerPtr> out;
  out.reserve(by_number_.size());
  for (const auto& [number, container] : by_number_) out.push_back(container);
  return out;
}

bool Registry::is_empty() const {
  std::shared_lock lock(mutex_);
  return by_number_.empty();
}

// The innermost, where registered containers are nested; the first of several in the same cgroups.
// mutex_ is held.
ContainerPtr Registry::registered_for(const cgroup::Paths& paths) const {
  ContainerPtr best;
  for (const auto& [number, container] : by_number_) {
    const cgroup::Paths& candidate = container->record().cgroup_paths;
    if (container->gone() || !contains(candidate, paths)) continue;
    if (!best || (candidate != best->record().cgroup_paths &&
                  contains(best->record().cgroup_paths, candidate)))
      best = container;
  }
  return best;
}

}  // namespace umwelt::container
