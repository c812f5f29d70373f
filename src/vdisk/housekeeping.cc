// SPDX-License-Identifier: Apache-2.0
#include "vdisk/housekeeping.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "base/file.h"
#include "base/parse.h"
#include "cgroup/parse.h"
#include "vdisk/image.h"
#include "vdisk/io_limits.h"
#include "vdisk/paths.h"
#include "vdisk/ready.h"
#include "vdisk/store.h"
#include "vdisk/trimmer.h"

namespace umwelt::vdisk {
namespace {

using Weight = Housekeeping::Weight;

constexpr int kIdleTickMs = 2000, kTickMs = 500, kUrgentTickMs = 20;
// Between two looks no more than the space above the critical mark can be written, at this speed.
constexpr std::uint64_t kBytesAMs = 4ULL << 20;
using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kLiftInterval{15};
constexpr char kBallast[] = "ballast";

// What is in memory and will be on the host soon, of all filesystems.
std::uint64_t read_dirty_bytes() {
  const auto text = read_file("/proc/meminfo");
  if (!text) return 0;
  struct Dirty {
    std::uint64_t dirty_kib = 0, writeback_kib = 0;
  } dirty;
  constexpr KeyedField<Dirty> kTable[] = {{"Dirty:", &Dirty::dirty_kib},
                                          {"Writeback:", &Dirty::writeback_kib}};
  parse_keyed<Dirty>(*text, kTable, dirty);
  return (dirty.dirty_kib + dirty.writeback_kib) * 1024;
}

// Of it, what the processes of a container have written. An Error: nobody counts that.
Result<std::uint64_t> read_dirty_bytes(const cgroup::Hierarchies& hierarchies,
                                       const cgroup::Paths& paths) {
  const auto v1 = hierarchies.v1.find("memory");
  const bool is_v1 = v1 != hierarchies.v1.end();
  const auto path = paths.find(is_v1 ? "memory" : "");
  if (path == paths.end()) return fail(ENOENT, "the container's memory controller");
  const std::string directory = (is_v1 ? v1->second : hierarchies.v2) + path->second;
  if (::access(directory.c_str(), F_OK) != 0 && errno == ENOENT) return 0;  // it has ended
  const std::string text = UMWELT_TRY(read_file(directory + "/memory.stat"));
  const cgroup::MemoryStat stat = is_v1 ? UMWELT_TRY(cgroup::parse_memory_stat_v1(text)).stat
                                        : UMWELT_TRY(cgroup::parse_memory_stat_v2(text));
  return stat.file_dirty + stat.file_writeback;
}

// Stops or continues all processes of a container.
Result<void> apply_frozen(const cgroup::Paths& paths, bool frozen) {
  const cgroup::Hierarchies hierarchies = UMWELT_TRY(cgroup::Hierarchies::read());
  const auto mount = hierarchies.v1.find("freezer");
  const auto path = paths.find(mount == hierarchies.v1.end() ? "" : "freezer");
  if (path == paths.end()) return fail(ENOENT, "the container's freezer");
  if (mount != hierarchies.v1.end())
    return write_file_at(AT_FDCWD, mount->second + path->second + "/freezer.state",
                         frozen ? "FROZEN" : "THAWED");
  return write_file_at(AT_FDCWD, hierarchies.v2 + path->second + "/cgroup.freeze",
                       frozen ? "1" : "0");
}

}  // namespace

struct Housekeeping::Impl {
  container::Directories directories;
  Settings settings;
  Log log;
  Store store;
  std::optional<ReadyPool> ready;
  std::optional<Trimmer> trimmer;
  UniqueFd stop;
  std::thread thread;

  // Of the thread alone:
  Level level = Level::kNormal;
  std::set<std::string> frozen;  // ids of containers
  std::string last_trouble;      // that was logged
  std::uint64_t above_critical_bytes = 0;
  bool empty = true;
  Clock::time_point next_lift = Clock::now();

  Impl(container::Directories d, Settings s, Log l, Store st)
      : directories(std::move(d)), settings(s), log(std::move(l)), store(std::move(st)) {}

  void run();
  void round();
  void keep_ready();
  std::uint64_t soon_written_bytes() const;
  void watch_space();
  void thaw_forgotten();
  void enter(Level next, const Sums& sums);
  void freeze_all();
  bool thaw(const container::Record& c);
  void thaw_all();
  void keep_ballast();
  void trouble(const std::string& text);
  Result<container::Record> record_of(const std::string& id) const;
  std::vector<container::Record> growing_containers() const;
};

// The same trouble every half second is one line.
void Housekeeping::Impl::trouble(const std::string& text) {
  if (text != last_trouble) log(Weight::kWarning, text);
  last_trouble = text;
}

Result<container::Record> Housekeeping::Impl::record_of(const std::string& id) const {
  if (!container::valid_id(id)) return fail(EINVAL, "container " + id);
  const std::string text = UMWELT_TRY(read_file(directories.records() + "/" + id + ".json"));
  return container::record_from_json(nlohmann::json::parse(text, nullptr, false));
}

// By a vdisk or a volume that is not guaranteed.
std::vector<container::Record> Housekeeping::Impl::growing_containers() const {
  constexpr std::string_view kSuffix = ".json";
  std::vector<container::Record> growing;
  const auto names = read_names_at(AT_FDCWD, directories.records().c_str());
  if (!names) return growing;
  for (const std::string& name : *names) {
    if (!name.ends_with(kSuffix)) continue;
    auto record = record_of(name.substr(0, name.size() - kSuffix.size()));
    if (record && record->grows_on_host) growing.push_back(std::move(*record));
  }
  return growing;
}

void Housekeeping::Impl::keep_ready() {
  if (!ready) return;
  // One at a time: whoever waits for the loop lock or the disk goes first.
  if (const auto missing = ready->refill(level == Level::kNormal); !missing)
    trouble("keep vdisks ready: " + missing.error().message());
}

void Housekeeping::Impl::freeze_all() {
  for (const container::Record& c : growing_containers()) {
    if (frozen.contains(c.id) || !apply_frozen(c.cgroup_paths, true)) continue;
    frozen.insert(c.id);
    log(Weight::kWarning, fmt::format("container {} is stopped until there is space again", c.id));
  }
}

// False: it is to be tried again. One that is gone needs no thawing.
bool Housekeeping::Impl::thaw(const container::Record& c) {
  const auto thawed = apply_frozen(c.cgroup_paths, false);
  if (thawed || thawed.error().code == ENOENT || thawed.error().code == ENODEV) return true;
  trouble(fmt::format("container {} is still stopped: {}", c.id, thawed.error().message()));
  return false;
}

void Housekeeping::Impl::thaw_all() {
  std::erase_if(frozen, [this](const std::string& id) {
    const auto record = record_of(id);
    if (!record && record.error().code != ENOENT) {
      trouble(fmt::format("container {} is still stopped: {}", id, record.error().message()));
      return false;
    }
    if (record && !thaw(*record)) return false;
    log(Weight::kInformation, fmt::format("container {} goes on", id));
    return true;
  });
}

void Housekeeping::Impl::keep_ballast() {
  if (settings.ballast_bytes == 0) {
    ::unlinkat(store.directory(), kBallast, 0);
    return;
  }
  const auto file = open_at(store.directory(), kBallast, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
  struct stat status {};
  if (!file || ::fstat(file->get(), &status) != 0) return;
  // Not out of what it must leave: it would be given up at once, and come again.
  const auto held = static_cast<std::uint64_t>(status.st_blocks) * 512;
  const auto sums = store.sums();
  if (!sums || saturating_sub(saturating_add(sums->free_bytes, held), settings.ballast_bytes) <
                   sums->low_water_bytes) {
    ::unlinkat(store.directory(), kBallast, 0);
    return;
  }
  if (::fallocate(file->get(), 0, 0, static_cast<off_t>(settings.ballast_bytes)) != 0)
    ::unlinkat(store.directory(), kBallast, 0);
}

void Housekeeping::Impl::enter(Level next, const Sums& sums) {
  const std::string text = fmt::format(
      "the pool of vdisks {} is at level {}: {} of {} are free (low water {}, critical "
      "{})",
      vdisks_directory(directories), name_of(next), amount(sums.free_bytes),
      amount(sums.size_bytes), amount(sums.low_water_bytes), amount(sums.critical_bytes));
  log(next == Level::kNormal ? Weight::kInformation : Weight::kWarning, text);
  if (next == Level::kCritical && level != Level::kCritical)
    ::unlinkat(store.directory(), kBallast, 0);
  level = next;
}

// By the containers that grow on the host; what others have written is no reason to stop these.
std::uint64_t Housekeeping::Impl::soon_written_bytes() const {
  const auto hierarchies = cgroup::Hierarchies::read();
  std::uint64_t sum = 0;
  for (const container::Record& c : growing_containers()) {
    const auto dirty =
        hierarchies ? read_dirty_bytes(*hierarchies, c.cgroup_paths) : fail(hierarchies.error());
    if (!dirty) return read_dirty_bytes();
    sum += *dirty;
  }
  return sum;
}

void Housekeeping::Impl::watch_space() {
  auto sums = store.sums();
  if (!sums) return trouble(sums.error().message());
  const std::uint64_t free_bytes = sums->free_bytes;
  sums->free_bytes = saturating_sub(free_bytes, read_dirty_bytes());
  // All that is dirty is one read; whose it is costs more, and matters seldom.
  if (level != Level::kNormal || vdisk::level(*sums) != Level::kNormal)
    sums->free_bytes =
        saturating_sub(free_bytes, std::min(soon_written_bytes(), sums->promised_bytes));
  empty = sums->vdisks == 0;
  above_critical_bytes = saturating_sub(sums->free_bytes, sums->critical_bytes);
  Level now = vdisk::level(*sums);
  // What was stopped goes on only well above the mark that stopped it.
  if (level == Level::kCritical && now == Level::kLow &&
      sums->free_bytes <
          sums->critical_bytes + saturating_sub(sums->low_water_bytes, sums->critical_bytes) / 2)
    now = Level::kCritical;
  const bool changed = now != level;
  if (changed) enter(now, *sums);
  if (now == Level::kCritical) freeze_all();
  if (now != Level::kCritical && !frozen.empty()) thaw_all();
  if (changed && now != Level::kNormal) trimmer->trim_all();
  if (changed && now == Level::kNormal) keep_ballast();
}

void Housekeeping::Impl::thaw_forgotten() {
  const auto thawed = store.thaw_forgotten();
  if (!thawed) return trouble("thaw vdisks: " + thawed.error().message());
  for (const std::string& name : *thawed)
    log(Weight::kWarning, fmt::format("vdisk {} stood still for a copy that was killed", name));
}

void Housekeeping::Impl::round() {
  thaw_forgotten();
  watch_space();
  if (const auto now = Clock::now(); now >= next_lift) {
    next_lift = now + kLiftInterval;
    if (const auto lifted = lift_forgotten_limits(); !lifted)
      trouble("lift speed limits: " + lifted.error().message());
  }
  keep_ready();
}

void Housekeeping::Impl::run() {
  keep_ballast();
  for (;;) {
    round();
    const bool missing = ready && level == Level::kNormal && ready->size() < settings.ready;
    pollfd fds[] = {{stop.get(), POLLIN, 0}, {ready ? ready->notice() : -1, POLLIN, 0}};
    // Also without a vdisk: one may come, and be written to at once.
    const int most = empty && !ready ? kIdleTickMs : missing ? kUrgentTickMs : kTickMs;
    const auto wait = static_cast<int>(std::clamp<std::uint64_t>(
        above_critical_bytes / kBytesAMs, kUrgentTickMs, static_cast<std::uint64_t>(most)));
    ::poll(fds, 2, wait);
    if (fds[0].revents != 0) break;
  }
  thaw_all();
  if (ready) (void)ready->refill(false);
}

Housekeeping::Housekeeping(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<Housekeeping>> Housekeeping::start(const container::Directories& directories,
                                                          const Settings& settings, Log log) {
  Store store = UMWELT_TRY(Store::open(vdisks_directory(directories),
                                       templates_directory(directories), settings.policy));
  auto impl = std::make_unique<Impl>(directories, settings, std::move(log), std::move(store));
  // A keeper that was killed may have left containers stopped; nothing else is as urgent.
  for (const container::Record& c : impl->growing_containers())
    if (!impl->thaw(c)) impl->frozen.insert(c.id);
  const Reconciled reconciled = UMWELT_TRY(impl->store.reconcile());
  for (const std::string& name : reconciled.removed)
    impl->log(Weight::kInformation, fmt::format("vdisk {} belonged to nobody: removed", name));
  for (const std::string& name : reconciled.unknown)
    impl->log(Weight::kWarning, fmt::format("{}/{}.img is no vdisk of ours: left alone",
                                            vdisks_directory(directories), name));
  if (auto images = ImageStore::open(images_directory(directories))) UMWELT_TRY(images->tidy());
  (void)Templates(templates_directory(directories)).tidy();  // without mkfs.ext4 there is none
  if (const auto cleared = ReadyPool::clear(impl->store); !cleared)
    impl->trouble("remove prepared vdisks: " + cleared.error().message());
  if (settings.ready > 0)
    impl->ready = UMWELT_TRY(
        ReadyPool::open(impl->store, {settings.ready_bytes, settings.ready_class, settings.ready}));
  impl->stop = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  if (!impl->stop) return fail_errno("eventfd");
  Impl* self = impl.get();
  impl->trimmer.emplace(impl->store, settings.trim_interval_s);
  impl->thread = std::thread([self] { self->run(); });
  return std::unique_ptr<Housekeeping>(new Housekeeping(std::move(impl)));
}

Housekeeping::~Housekeeping() {
  const std::uint64_t one = 1;
  (void)!::write(impl_->stop.get(), &one, sizeof one);
  if (impl_->thread.joinable()) impl_->thread.join();
}

}  // namespace umwelt::vdisk
