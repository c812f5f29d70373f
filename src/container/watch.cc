// SPDX-License-Identifier: Apache-2.0
#include "container/watch.h"

#include <malloc.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/parse.h"
#include "base/unique_fd.h"
#include "container/uevents.h"

namespace umwelt::container {
namespace {

using ContainerPtr = Registry::ContainerPtr;

// In turn: the cheap look at what no file announces, and the whole, for writes through other mounts
// of a hierarchy and for containers whose watches are lost.
constexpr std::size_t kLookedAtPerTick = 8;
constexpr std::size_t kReconciledPerTick = 1;
constexpr unsigned kTicksBetweenSweeps = 10;
constexpr std::uint64_t kStuckAfter = 30'000'000'000U;
// The kernel updates effective cpusets after the uevent, in a work queue.
constexpr unsigned kTicksAfterHotplug = 2;
constexpr std::uint32_t kLimitEvents = IN_MODIFY | IN_DELETE_SELF | IN_MOVE_SELF;

// epoll keys: these, and kFirstPidFd + a container's number for its init's pidfd.
enum Key : std::uint64_t { kWake, kTimer, kInotify, kUevents, kFirstPidFd };

struct Entry {
  ContainerPtr container;
  UniqueFd init;             // pidfd; none for a container without an init process
  std::set<int> watches;     // inotify watch descriptors
  std::size_t files = 0;     // limit files at the last look
  bool lost_watches = true;  // or has none yet
};

Result<UniqueFd> open_timer() {
  UniqueFd fd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  const itimerspec every_second{{1, 0}, {1, 0}};
  if (!fd || ::timerfd_settime(fd.get(), 0, &every_second, nullptr) != 0)
    return fail_errno("timerfd");
  return fd;
}

// Calls `turn` with the next `count` of `containers`, round and round by number; `last` is the one
// that had a turn last.
template <class Turn>
void in_turn(const std::vector<ContainerPtr>& containers, std::uint64_t& last, std::size_t count,
             Turn turn) {
  auto next = std::upper_bound(containers.begin(), containers.end(), last,
                               [](std::uint64_t number, const ContainerPtr& container) {
                                 return number < container->record().number;
                               });
  for (std::size_t i = 0; i < std::min(count, containers.size()); ++i) {
    if (next == containers.end()) next = containers.begin();
    last = (*next)->record().number;
    turn(*next);
    ++next;
  }
}

// ESRCH when the process is gone already.
Result<UniqueFd> open_init(const Record& record) {
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, record.init_pid, 0)));
  if (!fd) return fail_errno("pidfd_open");
  if (!process_lives(record.init_pid, record.init_starttime)) return fail(ESRCH, "init");
  return fd;
}

}  // namespace

struct Watch::Impl {
  Registry& registry;
  std::shared_ptr<host::Reader> host;
  Changed changed;
  UniqueFd epoll, wake, timer, inotify, uevents;
  std::atomic<bool> stopping{false};
  std::thread thread;

  std::mutex mutex;  // guards the rest; never held while a container or the registry is called
  std::unordered_map<std::uint64_t, Entry> entries;          // by number
  std::unordered_map<int, std::set<std::uint64_t>> watched;  // watch descriptor -> numbers
  std::set<std::uint64_t> dirty;                             // to be refreshed
  std::set<std::uint64_t> exited;                            // whose init process is dead
  bool watches_full = false;
  bool freed = false;  // containers went since the last sweep

  std::atomic<std::uint64_t> woken_ns{0};  // CLOCK_BOOTTIME, 0 while the thread waits

  // Of the thread alone.
  std::uint64_t looked_at = 0, reconciled = 0;  // numbers of the last containers that had a turn
  unsigned ticks = 0, ticks_after_hotplug = 0;

  Impl(Registry& registry_, std::shared_ptr<host::Reader> host_, Changed changed_)
      : registry(registry_), host(std::move(host_)), changed(std::move(changed_)) {}

  Result<void> poll_on(int fd, std::uint64_t key);
  void wake_up();
  void add(const ContainerPtr& container);
  void remove(const ContainerPtr& container);
  void watch_files(const ContainerPtr& container);

  void loop();
  void handle(std::uint64_t key);
  void read_inotify();
  void handle_inotify(const inotify_event& event);
  void read_uevents();
  void mark_all_dirty();
  void work();
  void tick();
  void sweep();
  Result<bool> refresh(const ContainerPtr& container);
  Result<bool> refresh_or_end(const ContainerPtr& container, std::vector<ContainerPtr>& dead);
  bool lost_watches(std::uint64_t number);
};

Result<void> Watch::Impl::poll_on(int fd, std::uint64_t key) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = key;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0) return fail_errno("epoll_ctl");
  return {};
}

void Watch::Impl::wake_up() {
  const std::uint64_t one = 1;
  (void)!::write(wake.get(), &one, sizeof one);
}

void Watch::Impl::add(const ContainerPtr& container) {
  const Record& record = container->record();
  Entry entry;
  entry.container = container;
  auto init = record.init_pid != 0 ? open_init(record) : UniqueFd();
  const bool init_gone = !init && init.error().code == ESRCH;
  if (init) entry.init = std::move(*init);
  {
    std::lock_guard lock(mutex);
    const bool polled = entry.init
                            ? poll_on(entry.init.get(), kFirstPidFd + record.number).has_value()
                            : record.init_pid == 0 || init_gone;
    entries.emplace(record.number, std::move(entry));
    if (init_gone) exited.insert(record.number);
    if (!polled) spdlog::warn("container {}: the end of its init goes unnoticed", record.id);
  }
  watch_files(container);
  {
    // What changed before the watches stood.
    std::lock_guard lock(mutex);
    dirty.insert(record.number);
  }
  wake_up();
}

void Watch::Impl::remove(const ContainerPtr& container) {
  std::lock_guard lock(mutex);
  const auto found = entries.find(container->record().number);
  if (found == entries.end()) return;
  for (const int watch : found->second.watches) {
    const auto users = watched.find(watch);
    if (users == watched.end()) continue;
    users->second.erase(found->first);
    if (!users->second.empty()) continue;
    ::inotify_rm_watch(inotify.get(), watch);
    watched.erase(users);
  }
  dirty.erase(found->first);
  exited.erase(found->first);
  entries.erase(found);
  freed = true;
}

void Watch::Impl::watch_files(const ContainerPtr& container) {
  const auto looked = container->limit_files();
  if (!looked) return;  // there is another time, while the watches are lost
  const std::vector<std::string>& files = *looked;
  const std::uint64_t number = container->record().number;
  std::lock_guard lock(mutex);
  const auto found = entries.find(number);
  if (found == entries.end()) return;
  Entry& entry = found->second;
  if (files.size() == entry.files && !entry.lost_watches) return;
  entry.files = files.size();
  entry.lost_watches = false;
  for (const std::string& file : files) {
    // The same inode always gives the same descriptor.
    const int watch = ::inotify_add_watch(inotify.get(), file.c_str(), kLimitEvents);
    if (watch >= 0) {
      entry.watches.insert(watch);
      watched[watch].insert(number);
    } else if (errno == ENOSPC && !watches_full) {
      watches_full = true;
      spdlog::warn("fs.inotify.max_user_watches is used up: some limits are noticed late");
    }
  }
}

void Watch::Impl::loop() {
  std::array<epoll_event, 64> events;
  while (!stopping) {
    const int count = ::epoll_wait(epoll.get(), events.data(), static_cast<int>(events.size()), -1);
    woken_ns = boottime_ns();
    for (int i = 0; i < count; ++i) handle(events[static_cast<std::size_t>(i)].data.u64);
    if (!stopping) work();
    woken_ns = 0;
  }
}

void Watch::Impl::handle(std::uint64_t key) {
  std::uint64_t count = 0;
  switch (key) {
    case kWake:
      (void)!::read(wake.get(), &count, sizeof count);
      break;
    case kTimer:
      if (::read(timer.get(), &count, sizeof count) == sizeof count) tick();
      break;
    case kInotify:
      read_inotify();
      break;
    case kUevents:
      read_uevents();
      break;
    default: {
      std::lock_guard lock(mutex);
      exited.insert(key - kFirstPidFd);
    }
  }
}

void Watch::Impl::read_inotify() {
  alignas(inotify_event) std::array<char, 16384> buffer;
  ssize_t size;
  std::lock_guard lock(mutex);
  while ((size = ::read(inotify.get(), buffer.data(), buffer.size())) > 0) {
    std::size_t offset = 0;
    while (offset < static_cast<std::size_t>(size)) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + offset);
      handle_inotify(*event);
      offset += sizeof(inotify_event) + event->len;
    }
  }
}

void Watch::Impl::handle_inotify(const inotify_event& event) {
  if ((event.mask & IN_Q_OVERFLOW) != 0) {
    for (const auto& [number, entry] : entries) dirty.insert(number);
    return;
  }
  const auto users = watched.find(event.wd);
  if (users == watched.end()) return;
  dirty.insert(users->second.begin(), users->second.end());
  if ((event.mask & IN_IGNORED) == 0) return;
  // The kernel took the watch away with the file.
  for (const std::uint64_t number : users->second)
    if (const auto found = entries.find(number); found != entries.end()) {
      found->second.watches.erase(event.wd);
      found->second.lost_watches = true;
    }
  watched.erase(users);
}

void Watch::Impl::read_uevents() {
  if (!told_of_cpus(uevents.get())) return;
  host->cpus_changed();
  ticks_after_hotplug = kTicksAfterHotplug;
  mark_all_dirty();
}

void Watch::Impl::mark_all_dirty() {
  std::lock_guard lock(mutex);
  for (const auto& [number, entry] : entries) dirty.insert(number);
}

void Watch::Impl::work() {
  std::vector<ContainerPtr> dead, stale;
  {
    std::lock_guard lock(mutex);
    for (const std::uint64_t number : exited)
      if (const auto found = entries.find(number); found != entries.end())
        dead.push_back(found->second.container);
    for (const std::uint64_t number : dirty)
      if (const auto found = entries.find(number);
          found != entries.end() && !exited.contains(number))
        stale.push_back(found->second.container);
    exited.clear();
    dirty.clear();
  }
  for (const ContainerPtr& container : stale) {
    if (const auto done = refresh_or_end(container, dead); !done) {
      if (done.error().code != ETIMEDOUT) continue;
      std::lock_guard lock(mutex);
      dirty.insert(container->record().number);
      continue;
    }
    // A controller that was enabled late has brought limit files.
    watch_files(container);
  }
  for (const ContainerPtr& container : dead) {
    spdlog::info("container {} ended", container->record().id);
    registry.remove(container);
  }
}

Result<bool> Watch::Impl::refresh_or_end(const ContainerPtr& container,
                                         std::vector<ContainerPtr>& dead) {
  auto result = refresh(container);
  if (!result && result.error().code == ENODEV) dead.push_back(container);
  return result;
}

Result<bool> Watch::Impl::refresh(const ContainerPtr& container) {
  auto result = container->refresh([&] {
    if (changed) changed(container);
  });
  if (!result && result.error().code != ENODEV && result.error().code != ETIMEDOUT)
    spdlog::warn("refresh: {}", result.error().message());
  return result;
}

void Watch::Impl::tick() {
  ++ticks;
  if (ticks_after_hotplug > 0) {
    --ticks_after_hotplug;
    mark_all_dirty();
  }
  registry.load_late();
  const std::vector<ContainerPtr> registered = registry.all();
  for (const ContainerPtr& container : registered) container->tick();
  for (const ContainerPtr& container : registry.on_demand()) container->tick();
  if (ticks % kTicksBetweenSweeps == 0) sweep();

  std::vector<ContainerPtr> dead;
  in_turn(registered, looked_at, kLookedAtPerTick, [&](const ContainerPtr& container) {
    const auto found = container->changed_unannounced();
    const bool late = !found && found.error().code == ETIMEDOUT;
    if (!late && (!found || *found)) (void)refresh_or_end(container, dead);
  });
  in_turn(registered, reconciled, kReconciledPerTick, [&](const ContainerPtr& container) {
    if (refresh_or_end(container, dead) && lost_watches(reconciled)) watch_files(container);
  });
  std::lock_guard lock(mutex);
  for (const ContainerPtr& container : dead) exited.insert(container->record().number);
}

void Watch::Impl::sweep() {
  registry.sweep();
  {
    std::lock_guard lock(mutex);
    if (!std::exchange(freed, false)) return;
  }
  // What many containers left between what others still have would stay ours.
  ::malloc_trim(0);
}

bool Watch::Impl::lost_watches(std::uint64_t number) {
  std::lock_guard lock(mutex);
  const auto found = entries.find(number);
  return found != entries.end() && found->second.lost_watches;
}

Watch::Watch() = default;

Result<std::unique_ptr<Watch>> Watch::start(Registry& registry, std::shared_ptr<host::Reader> host,
                                            Changed changed) {
  std::unique_ptr<Watch> watch(new Watch());
  watch->impl_ = std::make_unique<Impl>(registry, std::move(host), std::move(changed));
  Impl& impl = *watch->impl_;
  impl.epoll = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!impl.epoll) return fail_errno("epoll_create");
  impl.wake = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!impl.wake) return fail_errno("eventfd");
  impl.timer = UMWELT_TRY(open_timer());
  impl.inotify = UniqueFd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!impl.inotify) return fail_errno("inotify_init");
  UMWELT_CHECK(impl.poll_on(impl.wake.get(), kWake));
  UMWELT_CHECK(impl.poll_on(impl.timer.get(), kTimer));
  UMWELT_CHECK(impl.poll_on(impl.inotify.get(), kInotify));
  if (auto uevents = open_uevents()) {
    impl.uevents = std::move(*uevents);
    UMWELT_CHECK(impl.poll_on(impl.uevents.get(), kUevents));
  } else {
    spdlog::warn("CPU hotplug is noticed late: {}", uevents.error().message());
  }
  registry.observe({[&impl](const ContainerPtr& container) { impl.add(container); },
                    [&impl](const ContainerPtr& container) { impl.remove(container); }});
  impl.thread = std::thread([&impl] { impl.loop(); });
  return watch;
}

Watch::~Watch() {
  impl_->stopping = true;
  if (!impl_->thread.joinable()) return;
  impl_->wake_up();
  impl_->thread.join();
}

bool Watch::is_stuck() const {
  const std::uint64_t woken = impl_->woken_ns;
  return woken != 0 && saturating_sub(boottime_ns(), woken) > kStuckAfter;
}

Result<void> Watch::refresh(const ContainerPtr& container) {
  UMWELT_CHECK(impl_->refresh(container));
  return {};
}

}  // namespace umwelt::container
