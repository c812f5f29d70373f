// SPDX-License-Identifier: Apache-2.0
#include "host/reader.h"

#include <array>
#include <mutex>
#include <string_view>
#include <utility>

#include "base/file.h"
#include "host/cpus.h"
#include "host/parse.h"

namespace umwelt::host {
namespace {

using Clock = std::chrono::steady_clock;

// One file of /proc as a struct: opened at the first read, then read and parsed at most once per
// tick. Thread-safe.
template <class T>
class Cached {
 public:
  using Parse = Result<T> (*)(std::string_view text);
  // Files that the kernel makes record by record end with an empty read only.
  using Pread = Result<std::string_view> (*)(int fd, std::string& buffer);

  Cached(const char* path, Parse parse, Pread pread) : path_(path), parse_(parse), pread_(pread) {}

  Result<std::shared_ptr<const T>> read(int root, Clock::duration age = Reader::kTick) {
    const std::lock_guard lock(mutex_);
    const Clock::time_point now = Clock::now();
    if (value_ && now - read_at_ < age) return value_;
    if (!fd_) fd_ = UMWELT_TRY(open_at(root, path_, O_RDONLY));
    auto text = pread_(fd_.get(), buffer_);
    if (!text) return fail(text.error().code, std::string("read ") + path_);
    value_ = std::make_shared<const T>(UMWELT_TRY(parse_(*text)));
    read_at_ = now;
    return value_;
  }

 private:
  const char* path_;
  Parse parse_;
  Pread pread_;
  std::mutex mutex_;  // guards everything below
  UniqueFd fd_;
  std::string buffer_;
  std::shared_ptr<const T> value_;
  Clock::time_point read_at_;
};

// The memory of the nodes, each at most once per tick. Thread-safe.
class CachedNodes {
 public:
  std::shared_ptr<const std::vector<NodeMeminfo>> read(int root, const Cpus& cpus) {
    const std::lock_guard lock(mutex_);
    const Clock::time_point now = Clock::now();
    if (value_ && now - read_at_ < Reader::kTick) return value_;
    CpuSet online;
    for (const Node& node : cpus.nodes) online.set(node.id);
    value_ = std::make_shared<const std::vector<NodeMeminfo>>(read_node_meminfo(root, online));
    read_at_ = now;
    return value_;
  }

 private:
  std::mutex mutex_;  // guards everything below
  std::shared_ptr<const std::vector<NodeMeminfo>> value_;
  Clock::time_point read_at_;
};

Result<std::string> as_it_is(std::string_view text) { return std::string(text); }

// The CPUs, and the nodes, until they change. Thread-safe.
class CachedCpus {
 public:
  Result<std::shared_ptr<const Cpus>> read(int root) {
    const std::lock_guard lock(mutex_);
    const Clock::time_point now = Clock::now();
    if (value_ && now - checked_at_ >= kCheck) {
      if (changed(root)) value_.reset();
      checked_at_ = now;
    }
    if (!value_) {
      (void)changed(root);  // before the rest: what changes meanwhile is seen at the next check
      value_ = std::make_shared<const Cpus>(UMWELT_TRY(read_cpus(root)));
      checked_at_ = now;
    }
    return value_;
  }

  void forget() {
    const std::lock_guard lock(mutex_);
    value_.reset();
  }

 private:
  static constexpr std::chrono::seconds kCheck{1};

  // A file that says which CPUs or nodes there are; its last text.
  struct Watched {
    const char* path;
    UniqueFd fd = {};
    std::string text = {};
  };

  // Since the last call. Where sysfs says nothing, nothing does.
  bool changed(int root) {
    bool any = false;
    for (Watched& file : watched_) {
      if (!file.fd) {
        auto fd = open_at(root, file.path, O_RDONLY);
        if (!fd) continue;
        file.fd = *std::move(fd);
      }
      const auto text = pread_record(file.fd.get(), buffer_);
      if (!text || *text == file.text) continue;
      file.text = *text;
      any = true;
    }
    return any;
  }

  std::mutex mutex_;  // guards everything below
  // Memory may come to a node, or the last of it go, while the CPUs stay what they are.
  std::array<Watched, 3> watched_{{{"sys/devices/system/cpu/online"},
                                   {"sys/devices/system/node/online"},
                                   {"sys/devices/system/node/has_memory"}}};
  std::string buffer_;
  std::shared_ptr<const Cpus> value_;
  Clock::time_point checked_at_;
};

}  // namespace

struct Reader::State {
  UniqueFd root;
  CachedCpus cpus;
  CachedNodes nodes;
  Cached<Meminfo> meminfo{"proc/meminfo", parse_meminfo, pread_record};
  Cached<Stat> stat{"proc/stat", parse_stat, pread_record};
  Cached<std::vector<Swap>> swaps{"proc/swaps", parse_swaps, pread_all};
  Cached<Uptime> uptime{"proc/uptime", parse_uptime, pread_record};
  Cached<Loadavg> loadavg{"proc/loadavg", parse_loadavg, pread_record};

  Cached<Vmstat> vmstat{"proc/vmstat", parse_vmstat, pread_all};
  Cached<std::vector<Disk>> diskstats{"proc/diskstats", parse_diskstats, pread_all};
  Cached<std::vector<Partition>> partitions{"proc/partitions", parse_partitions, pread_all};
  Cached<PerCpuTable> interrupts{"proc/interrupts", parse_per_cpu_table, pread_all};
  Cached<PerCpuTable> softirqs{"proc/softirqs", parse_per_cpu_table, pread_record};
  Cached<Schedstat> schedstat{"proc/schedstat", parse_schedstat, pread_all};
  Cached<std::vector<Zone>> zoneinfo{"proc/zoneinfo", parse_zoneinfo, pread_all};
  Cached<std::vector<Buddy>> buddyinfo{"proc/buddyinfo", parse_buddyinfo, pread_all};
  Cached<Slabinfo> slabinfo{"proc/slabinfo", parse_slabinfo, pread_all};
  Cached<std::vector<Controller>> controllers{"proc/cgroups", parse_cgroups, pread_record};

  Cached<std::string> pressure_cpu{"proc/pressure/cpu", as_it_is, pread_record};
  Cached<std::string> pressure_memory{"proc/pressure/memory", as_it_is, pread_record};
  Cached<std::string> pressure_io{"proc/pressure/io", as_it_is, pread_record};
  Cached<std::string> pressure_irq{"proc/pressure/irq", as_it_is, pread_record};

  // nullopt also when pressure is not accounted for (psi=0).
  std::optional<std::string> read_pressure(Cached<std::string>& file) {
    const auto text = file.read(root.get());
    return text ? std::optional(**text) : std::nullopt;
  }

  // Null where the kernel was built without the file.
  template <class T>
  Result<std::shared_ptr<const T>> read_optional(Cached<T>& file) {
    auto value = file.read(root.get());
    if (!value && value.error().code == ENOENT) return std::shared_ptr<const T>();
    return value;
  }
};

Reader::Reader() : state_(std::make_unique<State>()) {}
Reader::~Reader() = default;

Result<std::unique_ptr<Reader>> Reader::open(const std::string& root) {
  std::unique_ptr<Reader> reader(new Reader());
  reader->state_->root = UMWELT_TRY(open_at(AT_FDCWD, root, O_PATH | O_DIRECTORY));
  return reader;
}

Result<Facts> Reader::read(unsigned parts) {
  State& state = *state_;
  const int root = state.root.get();
  Facts facts;
  if (parts & (kCpus | kNodeMeminfo)) facts.cpus = UMWELT_TRY(state.cpus.read(root));
  if (parts & kNodeMeminfo) facts.node_meminfo = state.nodes.read(root, *facts.cpus);
  if (parts & kMeminfo)
    facts.meminfo = UMWELT_TRY(state.meminfo.read(root));
  else if (parts & kRecentMeminfo)
    facts.meminfo = UMWELT_TRY(state.meminfo.read(root, std::chrono::seconds(1)));
  if (parts & kStat) facts.stat = UMWELT_TRY(state.stat.read(root));
  if (parts & kSwaps) {
    facts.swaps = UMWELT_TRY(state.read_optional(state.swaps));
    if (!facts.swaps) facts.swaps = std::make_shared<const std::vector<Swap>>();
  }
  if (parts & kPressure)
    facts.pressure = {
        state.read_pressure(state.pressure_cpu), state.read_pressure(state.pressure_memory),
        state.read_pressure(state.pressure_io), state.read_pressure(state.pressure_irq)};
  if (parts & kUptime) facts.uptime = *UMWELT_TRY(state.uptime.read(root));
  if (parts & kLoadavg) facts.loadavg = *UMWELT_TRY(state.loadavg.read(root));
  const auto read_table = [&]<class T>(Part part, Cached<T>& file,
                                       std::shared_ptr<const T>& out) -> Result<void> {
    if (parts & part) out = UMWELT_TRY(state.read_optional(file));
    return {};
  };
  UMWELT_CHECK(read_table(kVmstat, state.vmstat, facts.vmstat));
  UMWELT_CHECK(read_table(kDiskstats, state.diskstats, facts.diskstats));
  UMWELT_CHECK(read_table(kPartitions, state.partitions, facts.partitions));
  UMWELT_CHECK(read_table(kInterrupts, state.interrupts, facts.interrupts));
  UMWELT_CHECK(read_table(kSoftirqs, state.softirqs, facts.softirqs));
  UMWELT_CHECK(read_table(kSchedstat, state.schedstat, facts.schedstat));
  UMWELT_CHECK(read_table(kZoneinfo, state.zoneinfo, facts.zoneinfo));
  UMWELT_CHECK(read_table(kBuddyinfo, state.buddyinfo, facts.buddyinfo));
  UMWELT_CHECK(read_table(kSlabinfo, state.slabinfo, facts.slabinfo));
  UMWELT_CHECK(read_table(kControllers, state.controllers, facts.controllers));
  return facts;
}

void Reader::cpus_changed() { state_->cpus.forget(); }

}  // namespace umwelt::host
