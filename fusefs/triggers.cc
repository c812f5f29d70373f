// SPDX-License-Identifier: Apache-2.0
#include "fusefs/triggers.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/parse.h"

namespace umwelt::fusefs {
namespace {

constexpr std::uint64_t kWakeKey = 0;  // no opened file has this number
constexpr std::uint64_t kSlowWindowUs = 2'000'000;
constexpr unsigned kSysResource = 24;  // CAP_SYS_RESOURCE (linux/capability.h)

}  // namespace

Result<std::unique_ptr<Triggers>> Triggers::start() {
  std::unique_ptr<Triggers> triggers(new Triggers());
  triggers->epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!triggers->epoll_) return fail_errno("epoll_create");
  triggers->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!triggers->wake_) return fail_errno("eventfd");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kWakeKey;
  if (::epoll_ctl(triggers->epoll_.get(), EPOLL_CTL_ADD, triggers->wake_.get(), &event) != 0)
    return fail_errno("epoll_ctl");
  triggers->thread_ = std::thread([&self = *triggers] { self.loop(); });
  ::pthread_setname_np(triggers->thread_.native_handle(), "triggers");
  return triggers;
}

Triggers::~Triggers() { stop(); }

void Triggers::stop() {
  std::map<const void*, std::deque<Job>> jobs;
  std::vector<Wake> wakes;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_up();
  if (thread_.joinable()) thread_.join();
  {
    const std::lock_guard lock(mutex_);
    for (auto& [handle, trigger] : triggers_)
      if (trigger.wake) wakes.push_back(std::move(trigger.wake));
    triggers_.clear();
    jobs.swap(jobs_);
    ending_ = 0;
  }
  for (const Wake& wake : wakes) wake();
  for (auto& [container, queue] : jobs)
    for (Job& job : queue)
      if (job.done) job.done(fail(ESHUTDOWN, "trigger"));
}

std::size_t Triggers::size() const {
  const std::lock_guard lock(mutex_);
  return triggers_.size() + ending_;
}

void Triggers::wake_up() {
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

void Triggers::queue(const std::shared_ptr<const void>& container, Job job) {
  jobs_[container.get()].push_back(std::move(job));
  wake_up();
}

void Triggers::arm(std::uint64_t handle, Wanted wanted, Done done) {
  {
    const std::lock_guard lock(mutex_);
    if (!stopping_) {
      const auto container = wanted.container;
      queue(container, {handle, std::move(wanted), std::move(done), {}});
      return;
    }
  }
  done(fail(ESHUTDOWN, "trigger"));
}

short Triggers::poll(std::uint64_t handle, Wake wake) {
  Wake replaced;  // destroyed after the lock
  const std::lock_guard lock(mutex_);
  const auto found = triggers_.find(handle);
  if (found == triggers_.end() || stopping_) return POLLERR | POLLPRI;
  Trigger& trigger = found->second;
  if (trigger.broken) return POLLERR | POLLPRI;
  replaced = std::exchange(trigger.wake, std::move(wake));
  return std::exchange(trigger.fired, false) ? POLLPRI : 0;
}

void Triggers::release(std::uint64_t handle) {
  Wake wake;
  const std::lock_guard lock(mutex_);
  const auto found = triggers_.find(handle);
  if (found == triggers_.end() || stopping_) return;
  Trigger trigger = std::move(found->second);
  triggers_.erase(found);
  wake = std::move(trigger.wake);
  ++ending_;
  queue(trigger.container,
        {handle, {std::move(trigger.container), 0, {}, {}}, {}, std::move(trigger.fd)});
}

void Triggers::loop() {
  std::array<epoll_event, 64> events;
  bool more = false;
  for (;;) {
    const int count =
        ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), more ? 0 : -1);
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
    }
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      std::uint64_t value = 0;
      if (event.data.u64 == kWakeKey)
        (void)!::read(wake_.get(), &value, sizeof value);
      else
        handle_event(event.data.u64, event.events);
    }
    more = work_once();
  }
}

// epoll_wait() asks the trigger as poll(2) does, and it tells only once.
void Triggers::handle_event(std::uint64_t handle, std::uint32_t events) {
  Wake wake;
  {
    const std::lock_guard lock(mutex_);
    const auto found = triggers_.find(handle);
    if (found == triggers_.end()) return;
    Trigger& trigger = found->second;
    if ((events & EPOLLERR) != 0) {  // the cgroup is gone
      ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, trigger.fd.get(), nullptr);
      trigger.broken = true;
    } else {
      trigger.fired = true;
    }
    wake = std::exchange(trigger.wake, {});
  }
  if (wake) wake();
}

// One job of the container whose turn it is; true when there are more.
bool Triggers::work_once() {
  Job job;
  {
    const std::lock_guard lock(mutex_);
    if (jobs_.empty()) return false;
    auto next = jobs_.upper_bound(served_);
    if (next == jobs_.end()) next = jobs_.begin();
    served_ = next->first;
    job = std::move(next->second.front());
    next->second.pop_front();
    if (next->second.empty()) jobs_.erase(next);
  }
  if (job.done) {
    job.done(make(job.handle, job.wanted));
  } else {
    job.end.reset();  // takes the kernel a while
  }
  const std::lock_guard lock(mutex_);
  if (!job.done) --ending_;
  return !jobs_.empty();
}

Result<void> Triggers::check_numbers(std::uint64_t handle, const Wanted& wanted) const {
  const std::lock_guard lock(mutex_);
  if (triggers_.contains(handle)) return fail(EBUSY, "trigger");
  std::size_t of_container = 0, of_user = 0;
  for (const auto& [other, trigger] : triggers_) {
    if (trigger.container != wanted.container) continue;
    ++of_container;
    if (trigger.user == wanted.user) ++of_user;
  }
  if (triggers_.size() + ending_ >= kMax || of_container >= kMaxOfContainer ||
      (wanted.user != 0 && of_user >= kMaxOfUser))
    return fail(ENOSPC, "trigger");
  return {};
}

Result<void> Triggers::make(std::uint64_t handle, const Wanted& wanted) {
  UMWELT_CHECK(check_numbers(handle, wanted));
  Trigger trigger;
  trigger.fd = UMWELT_TRY(wanted.open());
  trigger.container = wanted.container;
  trigger.user = wanted.user;
  const std::size_t size = wanted.text.size() + 1;  // the kernel cuts off what ends it
  if (::write(trigger.fd.get(), wanted.text.c_str(), size) < 0) return fail_errno("write trigger");
  epoll_event event{};
  event.events = EPOLLPRI;
  event.data.u64 = handle;
  const std::lock_guard lock(mutex_);
  if (stopping_) return fail(ESHUTDOWN, "trigger");
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, trigger.fd.get(), &event) != 0)
    return fail_errno("epoll_ctl");
  triggers_.emplace(handle, std::move(trigger));
  return {};
}

bool may_use_any_window(pid_t pid) {
  const std::string directory = "/proc/" + std::to_string(pid);
  struct stat theirs {
  }, ours{};
  if (::stat((directory + "/ns/user").c_str(), &theirs) != 0 ||
      ::stat("/proc/self/ns/user", &ours) != 0 || theirs.st_ino != ours.st_ino)
    return false;
  const auto text = read_file(directory + "/status");
  if (!text) return false;
  std::string_view rest = *text;
  while (auto line = next_line(rest)) {
    if (next_word(*line) != "CapEff:") continue;
    const std::string_view word = next_word(*line);
    std::uint64_t effective = 0;
    const auto parsed = std::from_chars(word.data(), word.data() + word.size(), effective, 16);
    return parsed.ec == std::errc() && ((effective >> kSysResource) & 1) != 0;
  }
  return false;
}

Result<bool> has_slow_window(std::string_view trigger) {
  const std::string_view kind = next_word(trigger);
  const auto threshold_us = parse_u64(next_word(trigger));
  const auto window_us = parse_u64(next_word(trigger));
  if ((kind != "some" && kind != "full") || !threshold_us || !window_us ||
      !next_word(trigger).empty())
    return fail(EINVAL, "trigger");
  return *window_us % kSlowWindowUs == 0;
}

}  // namespace umwelt::fusefs
