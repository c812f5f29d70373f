// SPDX-License-Identifier: Apache-2.0
#include "container/registry.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/log.h"
#include "base/parse.h"
#include "container/caller_cache.h"

namespace umwelt::container {
namespace {

using json = nlohmann::json;
using ContainerPtr = Registry::ContainerPtr;

constexpr std::size_t kMaxRecordBytes = 1U << 20;
constexpr const char* kRecordSuffix = ".json";
constexpr const char* kNextNumberFile = "/next-number";
constexpr const char* kHistorySuffix = ".history";
constexpr const char* kViewsSuffix = ".views";  // launch/attach.h
// Numbers are reserved on disk in blocks, so that most containers cost no write for theirs.
constexpr std::uint64_t kNumberBlock = 64;
// Limits of on-demand containers, which nothing watches, are read again when older than this.
constexpr std::uint64_t kOnDemandLimitsAge = 100'000'000U;
constexpr std::chrono::milliseconds kOpeningPatience{500};
constexpr std::size_t kMaxOpenings = 64;

std::string describe(const Record& record) { return "container \"" + record.id + "\""; }

// No container outlives a crash of the machine.
Result<void> write_state(const std::string& path, const std::string& text) {
  return replace_file(path, text, 0600, /*durable=*/false);
}

Result<Record> read_record(const std::string& file) {
  const std::string text = UMWELT_TRY(read_file(file, kMaxRecordBytes));
  return record_from_json(json::parse(text, nullptr, false));
}

std::string beside(const std::string& file, const char* suffix) {
  return std::filesystem::path(file).replace_extension(suffix);
}

bool init_lives(const Record& record) {
  return record.init_pid == 0 || process_lives(record.init_pid, record.init_starttime);
}

// What the record leaves out and its init process tells.
Result<void> complete(Record& record) {
  if (record.init_pid != 0) {
    const ProcessStat stat = UMWELT_TRY(read_process_stat(record.init_pid));
    if (record.init_starttime == 0) record.init_starttime = stat.starttime;
    if (record.init_starttime != stat.starttime || stat.state == 'Z' || stat.state == 'X')
      return fail(ESRCH,
                  "init process " + std::to_string(record.init_pid) + " of " + describe(record));
    if (record.cgroup_paths.empty()) {
      const std::string_view text = UMWELT_TRY(read_proc_cgroup(record.init_pid));
      record.cgroup_paths = UMWELT_TRY(cgroup::parse_proc_cgroup(text));
    }
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

  std::vector<ContainerPtr> loaded;
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator(records_dir_, code)) {
    const std::string file = entry.path().string();
    if (entry.path().extension() != kRecordSuffix) continue;
    auto container = load_record(file);
    if (container) {
      loaded.push_back(std::move(*container));
    } else {
      spdlog::info("record {} dropped: {}", file, container.error().message());
      HistoryFile::remove(beside(file, kHistorySuffix));
      for (const char* suffix : {kViewsSuffix, kRecordSuffix})
        ::unlink(beside(file, suffix).c_str());
    }
  }
  if (code) return fail(code.value(), "list " + records_dir_);
  {
    const std::lock_guard lock(change_mutex_);
    if (next) reserved_numbers_ = next_number_ = parse_u64(trim(*next)).value_or(1);
    for (const ContainerPtr& container : loaded)
      next_number_ = std::max(next_number_, container->record().number + 1);
  }
  for (const ContainerPtr& container : loaded) {
    const Turn turn(*this, container->record().id);
    insert(container);
  }
  load_callers();
  return static_cast<unsigned>(loaded.size());
}

Result<ContainerPtr> Registry::load_record(const std::string& file) {
  Record record = UMWELT_TRY(read_record(file));
  if (record.number == 0 || records_dir_ + "/" + record.id + kRecordSuffix != file)
    return fail(EINVAL, "the record is not of this file");
  if (!init_lives(record)) return fail(ESRCH, "its init process");
  ContainerPtr container = UMWELT_TRY(Container::open(std::move(record), hierarchies_, host_));
  container->keep_history_in(path_of(*container, kHistorySuffix));
  return container;
}

std::string Registry::path_of(const Container& container, const char* suffix) const {
  return records_dir_ + "/" + container.record().id + suffix;
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
  if (!valid_id(record.id)) return fail(EINVAL, "container id \"" + record.id + "\"");
  UMWELT_CHECK(complete(record));
  const Turn turn(*this, record.id);
  if (const ContainerPtr present = find(record.id)) {
    const Record& old = present->record();
    if (!present->gone() && init_lives(old)) {
      if (record.init_pid != 0 && record.init_pid == old.init_pid &&
          record.init_starttime == old.init_starttime)
        return present;
      return fail(EEXIST, describe(record));
    }
    erase(present);
  }
  record.number = UMWELT_TRY(take_number());
  auto opened = Container::open(record, hierarchies_, host_);
  if (!opened && opened.error().code == EMFILE) {
    make_room();
    opened = Container::open(record, hierarchies_, host_);
  }
  ContainerPtr container = UMWELT_TRY(std::move(opened));
  std::string text;
  try {
    text = to_json(container->record()).dump(2);
  } catch (const json::exception&) {
    return fail(EINVAL, describe(container->record()) + " has a name or cgroup that is not UTF-8");
  }
  HistoryFile::remove(path_of(*container, kHistorySuffix));
  UMWELT_CHECK(write_state(path_of(*container, kRecordSuffix), text + "\n"));
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
  ::unlink(path_of(*container, kRecordSuffix).c_str());
  HistoryFile::remove(path_of(*container, kHistorySuffix));
  ::unlink(path_of(*container, kViewsSuffix).c_str());
  for (const Observer& observer : observers_)
    if (observer.removed) observer.removed(container);
  return true;
}

Result<void> Registry::remove(const std::string& id) {
  const Turn turn(*this, id);
  const ContainerPtr container = find(id);
  if (!container) return fail(ENOENT, "container \"" + id + "\"");
  erase(container);
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

std::vector<ContainerPtr> Registry::on_demand() const {
  std::shared_lock lock(mutex_);
  return callers_->containers();
}

// The innermost, where registered containers are nested. mutex_ is held.
ContainerPtr Registry::registered_for(const cgroup::Paths& paths) const {
  ContainerPtr best;
  for (const auto& [number, container] : by_number_) {
    const cgroup::Paths& candidate = container->record().cgroup_paths;
    if (container->gone() || !contains(candidate, paths)) continue;
    if (!best || contains(best->record().cgroup_paths, candidate)) best = container;
  }
  return best;
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
