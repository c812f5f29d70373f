// SPDX-License-Identifier: Apache-2.0
#include "container/container.h"

#include <algorithm>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "base/parse.h"
#include "cgroup/parse.h"
#include "container/caller.h"

namespace umwelt::container {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000U;
constexpr std::uint64_t kTasksAge = kSecond;  // how old a count of tasks may be
// runc mounts files, which is when we see the container, before it sets the memory limit.
constexpr std::uint64_t kSettlingTime = 2 * kSecond;
constexpr std::uint64_t kHistoryWindow = 60 * kSecond;   // who is read that often has a history
constexpr std::uint64_t kHistoryInterval = 5 * kSecond;  // the kernel's LOAD_FREQ

constexpr unsigned kShowsCpuTime = view::kNeedCpuTime | view::kNeedUptime | view::kNeedLoad;
constexpr unsigned kShowsTasks = view::kNeedTasks | view::kNeedLoad;

struct PartsOfNeed {
  unsigned needs, host, cgroup;
};
constexpr PartsOfNeed kParts[] = {
    {view::kNeedMemory, host::kMeminfo, cgroup::kMemory},
    {view::kNeedSwaps, host::kMeminfo | host::kSwaps, cgroup::kMemory},
    {view::kNeedHostStat, host::kStat, 0},
    {view::kNeedUptime, host::kUptime, 0},
    {view::kNeedLoad, host::kLoadavg, 0},
    {view::kNeedDiskstats, host::kDiskstats, cgroup::kIo},
    {view::kNeedVmstat, host::kVmstat, cgroup::kMemoryEvents | cgroup::kIo},
    {view::kNeedInterrupts, host::kInterrupts, 0},
    {view::kNeedSoftirqs, host::kSoftirqs, 0},
    {view::kNeedSchedstat, host::kSchedstat, 0},
    {view::kNeedZones, host::kZoneinfo | host::kBuddyinfo, 0},
    {view::kNeedSlabinfo, host::kSlabinfo, 0},
    {view::kNeedControllers, host::kControllers, 0},
    {view::kNeedPartitions, host::kPartitions, cgroup::kIo},
    {kShowsCpuTime, 0, cgroup::kCpuTime},
    {view::kNeedHugePages, 0, cgroup::kHugetlb},
    {view::kNeedPressure, 0, cgroup::kPressure},
};

unsigned host_parts(unsigned needs) {
  unsigned parts = host::kCpus;
  for (const PartsOfNeed& row : kParts)
    if ((needs & row.needs) != 0) parts |= row.host;
  return parts;
}

unsigned cgroup_parts(unsigned needs) {
  unsigned parts = 0;
  for (const PartsOfNeed& row : kParts)
    if ((needs & row.needs) != 0) parts |= row.cgroup;
  return parts;
}

// How many CPUs' time it may use at once.
double usable_cpus(const view::Cpus& cpus) {
  const double allowed = cpus.allowed.count();
  return cpus.bandwidth ? std::min(allowed, cpus.bandwidth->cpus()) : allowed;
}

// Time in which at least one task waited; nullopt where the kernel does not measure it.
std::optional<std::uint64_t> waited(const cgroup::Pressure& pressure) {
  std::optional<std::uint64_t> sum;
  for (const auto& text : {pressure.cpu, pressure.io}) {
    const auto some_us = text ? cgroup::parse_pressure_some(*text) : std::nullopt;
    if (some_us) sum = saturating_add(sum.value_or(0), mul_div(*some_us, 1000, 1));
  }
  return sum;
}

bool within(std::uint64_t then, std::uint64_t now, std::uint64_t interval) {
  return then != 0 && saturating_sub(now, then) < interval;
}

bool is_late(const Error& error) { return error.code == ETIMEDOUT || error.code == EAGAIN; }

// Whether there is memory on other nodes; then what these have is needed.
bool is_restricted(const CpuSet& mems, const host::Cpus& host) {
  for (const host::Node& node : host.nodes)
    if (!mems.empty() && node.memory_bytes > 0 && !mems.test(node.id)) return true;
  return false;
}

}  // namespace

Container::Container(Record record, std::shared_ptr<host::Reader> host,
                     std::shared_ptr<const host::Cpus> cpus, cgroup::Reader reader,
                     std::uint64_t limits_age_ns)
    : record_(std::move(record)),
      identity_(record_.identity()),
      host_(std::move(host)),
      limits_age_ns_(limits_age_ns),
      opened_ns_(boottime_ns()),
      cgroup_(std::move(reader)),
      limits_(cgroup_.limits()),
      cpus_(std::move(cpus)),
      limits_read_ns_(opened_ns_) {
  identity_.start_realtime_s = start_by_clock();
}

Result<Container::Opened> Container::open_cgroup(const cgroup::Paths& paths,
                                                 const cgroup::Hierarchies& hierarchies,
                                                 host::Reader& host) {
  auto facts = host.read(host::kCpus);
  if (!facts) return fail(EIO, facts.error().message());
  auto reader = cgroup::Reader::open(hierarchies, paths, "/", facts->cpus->online);
  if (!reader)
    return fail(reader.error().code == ENOENT ? ENODEV : reader.error().code, reader.error().text);
  return Opened{std::move(*reader), std::move(facts->cpus)};
}

Result<std::shared_ptr<Container>> Container::make(Record record, Opened opened,
                                                   std::shared_ptr<host::Reader> host,
                                                   std::uint64_t limits_age_ns) {
  const std::uint64_t inode = opened.reader.inode();
  if (record.cgroup_inode == 0) record.cgroup_inode = inode;
  if (record.cgroup_inode != inode)
    return fail(ENODEV, "another cgroup has the name of that of container \"" + record.id + "\"");
  if (record.id.empty()) record.id = "caller-" + std::to_string(inode);
  return std::shared_ptr<Container>(new Container(std::move(record), std::move(host),
                                                  std::move(opened.cpus), std::move(opened.reader),
                                                  limits_age_ns));
}

Error Container::kernel_error(const Error& error) {
  if (error.code == ENODEV || error.code == ENOENT) {
    gone_.store(true, std::memory_order_relaxed);
    return {ENODEV, "the cgroup of container \"" + record_.id + "\" (" + error.text + ")"};
  }
  if (is_late(error))
    return {ETIMEDOUT, "container \"" + record_.id +
                           "\" keeps its cgroup's directory locked, or the machine is overloaded"};
  return {EIO, "container \"" + record_.id + "\": " + error.message()};
}

Result<view::Resources> Container::resources(unsigned needs) {
  unsigned parts = host_parts(needs);
  // Of a limited container's meminfo only constants are the machine's.
  if ((parts & host::kMeminfo) != 0 && !shows_host_memory_.load(std::memory_order_relaxed))
    parts ^= host::kMeminfo | host::kRecentMeminfo;
  if (!identity_.limited && (needs & view::kNeedPressure) != 0) parts |= host::kPressure;
  if (identity_.disk && (needs & view::kNeedVmstat) != 0) parts |= host::kDiskstats;
  auto facts = host_->read(parts);
  if (!facts) return fail(EIO, facts.error().message());

  std::lock_guard lock(mutex_);
  const std::uint64_t now = boottime_ns();
  last_read_ns_.store(now, std::memory_order_relaxed);
  if ((needs & kShowsCpuTime) != 0) cpu_shown_ns_ = now;
  if ((needs & view::kNeedLoad) != 0) load_shown_ns_ = now;

  const bool settles =
      limits_age_ns_ != kUntilRefresh && saturating_sub(now, opened_ns_) < kSettlingTime;
  if (settles || saturating_sub(now, limits_read_ns_) > limits_age_ns_) {
    const auto read = read_limits(facts->cpus, now);
    if (!read && !is_late(read.error())) return fail(read.error());
  }
  if ((needs & view::kNeedMemory) != 0 && is_restricted(limits_.mems, *facts->cpus)) {
    auto nodes = host_->read(host::kNodeMeminfo);
    if (!nodes) return fail(EIO, nodes.error().message());
    facts->node_meminfo = std::move(nodes->node_meminfo);
  }
  cgroup::State state = UMWELT_TRY(read_cgroup(needs, now));
  if (state.io) {
    history_.io = view::next(std::move(history_.io), *state.io);
    state.io = view::shown_io(history_.io);
  }
  account(state, *facts->cpus, now);
  if (state.io || state.cpu_time) keep_history();
  view::Moment moment;
  moment.boottime_ns = now;
  if ((needs & kShowsCpuTime) != 0) moment.cpu = &history_.cpu;
  if ((needs & view::kNeedLoad) != 0) moment.load = &history_.load;
  view::Resources shown = view::resources(std::move(*facts), state, identity_, moment);
  if ((needs & (view::kNeedMemory | view::kNeedSwaps)) != 0) {
    const view::Memory& memory = shown.memory;
    const bool swap_is_own = memory.swap_limited || memory.swap_total == 0;
    shows_host_memory_.store(!memory.limited || !swap_is_own, std::memory_order_relaxed);
  }
  return shown;
}

Result<cgroup::State> Container::read_cgroup(unsigned needs, std::uint64_t now) {
  // The host itself is shown by its own figures.
  if (!identity_.limited) needs = 0;
  unsigned parts = cgroup_parts(needs);
  if (limits_.hugetlb.empty()) parts &= ~unsigned{cgroup::kHugetlb};
  // A cgroup without tasks is one whose container is about to start.
  const bool count_tasks =
      (needs & kShowsTasks) != 0 && (tasks_.total == 0 || !within(tasks_read_ns_, now, kTasksAge));
  if (count_tasks) parts |= cgroup::kTasks | cgroup::kPressure;
  auto state = cgroup_.read(parts);
  if (!state) return fail(kernel_error(state.error()));
  if (count_tasks && state->tasks) {
    tasks_ = *state->tasks;
    tasks_read_ns_ = now;
  }
  if ((needs & kShowsTasks) != 0) state->tasks = tasks_;
  return std::move(*state);
}

void Container::account(const cgroup::State& state, const host::Cpus& host, std::uint64_t now) {
  if (!state.cpu_time) return;
  const bool tasks_counted = tasks_read_ns_ == now;
  view::CpuSample sample{.boottime_ns = now, .used = *state.cpu_time, .shown = {}, .processes = {}};
  if (tasks_counted) sample.processes = tasks_.processes;
  const view::Cpus cpus = view::choose_cpus(host, state.limits, record_.policy);
  sample.shown.reserve(cpus.shown.size());
  for (const view::ShownCpu& cpu : cpus.shown) sample.shown.emplace_back(cpu.id, cpu.physical);
  sample.cpus = usable_cpus(cpus);
  history_.cpu = view::next(std::move(history_.cpu), sample, record_.start_boottime_ns);

  if (!tasks_counted || !state.pressure) return;
  const std::optional<std::uint64_t> waited_ns = waited(*state.pressure);
  const auto busy_ns = [&](const cgroup::CpuTime& used) {
    return used.user_ns + used.nice_ns + used.system_ns + (waited_ns ? 0 : used.throttled_ns);
  };
  history_.load = view::next(std::move(history_.load),
                             {.boottime_ns = now,
                              .busy_ns = busy_ns(*state.cpu_time),
                              .before_ns = busy_ns(history_.cpu.before),
                              .active = tasks_.running + tasks_.uninterruptible,
                              .cpus = usable_cpus(cpus),
                              .waited_ns = waited_ns,
                              .running = tasks_.running,
                              .total = tasks_.total,
                              .last_pid = last_pid()},
                             record_.start_boottime_ns);
}

// The id that the task made last has in the container's pid namespace.
std::uint64_t Container::last_pid() {
  if (tasks_.newest == 0) return 0;
  if (pid_levels_ == 0 && record_.init_pid != 0) {
    if (const auto init = read_pids(record_.init_pid)) pid_levels_ = init->size();
  }
  const auto pids = read_pids(static_cast<pid_t>(tasks_.newest));
  if (!pids) return history_.load.last_pid;  // it has ended
  const std::size_t levels = pid_levels_ == 0 ? pids->size() : std::min(pid_levels_, pids->size());
  return static_cast<std::uint64_t>((*pids)[levels - 1]);
}

// The clock may have been stepped since the start; a difference of a second is rounding.
std::int64_t Container::start_by_clock() const {
  const std::int64_t start_s = boottime_to_realtime_s(record_.start_boottime_ns);
  const std::int64_t known_s = identity_.start_realtime_s;
  return std::abs(start_s - known_s) <= 1 ? known_s : start_s;
}

Result<bool> Container::read_limits(const std::shared_ptr<const host::Cpus>& cpus,
                                    std::uint64_t now) {
  auto limits = cgroup_.read_limits(cpus->online);
  limits_read_ns_ = now;
  if (!limits) return fail(kernel_error(limits.error()));
  const std::int64_t start_s = start_by_clock();
  const bool same = *limits == limits_ && cpus == cpus_ && start_s == identity_.start_realtime_s;
  if (!same) {
    // The time until now passed under the old limits, also where nobody has read it.
    if (auto state = cgroup_.read(cgroup::kCpuTime)) {
      state->limits = limits_;
      account(*state, *cpus_, now);
    }
  }
  limits_ = std::move(*limits);
  cpus_ = cpus;
  identity_.start_realtime_s = start_s;
  if (same) return false;
  generation_.fetch_add(1, std::memory_order_acq_rel);
  return true;
}

Result<bool> Container::refresh(const std::function<void()>& changed) {
  std::lock_guard refreshing(refresh_mutex_);
  const auto facts = host_->read(host::kCpus);
  if (!facts) return fail(EIO, facts.error().message());
  {
    std::lock_guard lock(mutex_);
    if (!UMWELT_TRY(read_limits(facts->cpus, boottime_ns()))) return false;
  }
  if (changed) changed();
  return true;
}

Result<bool> Container::changed_unannounced() {
  const auto facts = host_->read(host::kCpus);
  if (!facts) return fail(EIO, facts.error().message());
  std::lock_guard lock(mutex_);
  auto changed = cgroup_.sets_changed(facts->cpus->online);
  if (!changed) return fail(kernel_error(changed.error()));
  return *changed || facts->cpus != cpus_ || start_by_clock() != identity_.start_realtime_s;
}

Result<std::vector<std::string>> Container::limit_files() {
  std::lock_guard lock(mutex_);
  return cgroup_.limit_files();
}

std::vector<cgroup::KernelValue> Container::origin_of(const std::string& name) {
  std::lock_guard lock(mutex_);
  return cgroup_.origin_of(name).value_or(std::vector<cgroup::KernelValue>());
}

Result<UniqueFd> Container::open_pressure(const std::string& resource) {
  if (!identity_.limited) return open_at(AT_FDCWD, "/proc/pressure/" + resource, O_RDWR);
  std::lock_guard lock(mutex_);
  return cgroup_.open_pressure(resource);
}

void Container::tick() {
  unsigned needs = 0;
  const std::uint64_t now = boottime_ns();
  if (!within(last_read_ns(), now, kHistoryWindow)) return;
  {
    std::lock_guard lock(mutex_);
    if (within(cpu_shown_ns_, now, kHistoryWindow) &&
        !within(history_.cpu.boottime_ns, now, kHistoryInterval))
      needs |= view::kNeedCpuTime;
    if (within(load_shown_ns_, now, kHistoryWindow) &&
        !within(history_.load.boottime_ns, now, kHistoryInterval))
      needs |= view::kNeedLoad;
  }
  if (needs == 0) return;
  const auto facts = host_->read(host::kCpus);
  if (!facts) return;
  std::lock_guard lock(mutex_);
  // A failure is told to whoever reads next.
  const auto state = read_cgroup(needs, now);
  if (!state) return;
  account(*state, *facts->cpus, now);
  keep_history();
}

void Container::keep_history_in(const std::string& path) {
  std::lock_guard lock(mutex_);
  history_file_.emplace(path);
  auto found = history_file_->load();
  if (!found) return spdlog::warn("container {}: {}", record_.id, found.error().message());
  // One of the future is of another boot.
  if (*found && (*found)->sampled_ns() <= boottime_ns()) history_ = std::move(**found);
}

void Container::stop_keeping_history() {
  std::lock_guard lock(mutex_);
  history_file_.reset();
}

void Container::keep_history() {
  if (!history_file_) return;
  const auto kept = history_file_->store(history_);
  if (!kept && !history_fails_)
    spdlog::warn("container {}: its counters may go back if the daemon is restarted: {}",
                 record_.id, kept.error().message());
  history_fails_ = !kept;
}

}  // namespace umwelt::container
