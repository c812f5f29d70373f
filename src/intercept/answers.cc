// SPDX-License-Identifier: Apache-2.0
#include "intercept/answers.h"

#include <sched.h>

#include <ctime>
#include <utility>

#include "intercept/affinity.h"
#include "intercept/status.h"
#include "intercept/sysinfo.h"
#include "intercept/task.h"

namespace umwelt::intercept {
namespace {

std::uint64_t coarse_monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U +
         static_cast<std::uint64_t>(now.tv_nsec);
}

constexpr std::size_t kMostCovered = 256;

Reply failed(int error) { return {-1, error, false}; }

// A task whose memory may not be touched at all (Yama's ptrace_scope 3) is left to the kernel.
Reply memory_failed(const Error& error) {
  if (error.code == EPERM) return {0, 0, true};
  return failed(EFAULT);
}

Reply write(const Request& request, std::uint64_t address, std::string_view bytes,
            std::int64_t value, const std::function<bool()>& waiting) {
  if (!waiting()) return failed(ESRCH);
  const auto written = write_memory(request.caller, address, bytes);
  if (!written) return memory_failed(written.error());
  return {value, 0, false};
}

std::string bytes_of(std::uint32_t value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

std::uint32_t node_of(const host::Cpus* host, unsigned cpu) {
  if (host == nullptr) return 0;
  for (const host::Node& node : host->nodes)
    if (node.cpus.test(cpu)) return node.id;
  return 0;
}

}  // namespace

Reply Answers::answer(const Request& request, const std::function<bool()>& waiting) {
  if (request.caller == 0) return {0, 0, true};
  switch (request.call) {
    case Call::kSysinfo:
      return sysinfo(request, waiting);
    case Call::kSchedGetaffinity:
      return sched_getaffinity(request, waiting);
    case Call::kSchedSetaffinity:
      return sched_setaffinity(request, waiting);
    case Call::kGetcpu:
      return getcpu(request, waiting);
  }
  return {0, 0, true};
}

Result<Answers::KnownPtr> Answers::known() {
  // One that is registered is watched, the limits of others are read when they are needed.
  const bool watched = container_->record().number != 0;
  const std::uint64_t generation = container_->generation();
  const std::uint64_t now = watched ? 0 : coarse_monotonic_ns();
  {
    const std::lock_guard lock(mutex_);
    if (known_ && known_generation_ == generation && now - known_made_ns_ < kShareNs) return known_;
  }
  auto resources = container_->resources(view::kNeedLimits);
  static const std::size_t host_bytes = affinity_bytes();
  const std::lock_guard lock(mutex_);
  if (!resources) {
    if (known_) return known_;
    return fail(resources.error());
  }
  const CpuSet& possible = resources->host.cpus->possible;
  const MaskSize size = mask_size(resources->cpus, possible, host_bytes);
  known_ = std::make_shared<const Known>(
      Known{std::move(resources->cpus), std::move(resources->host.cpus), size});
  known_generation_ = generation;
  known_made_ns_ = now;
  return known_;
}

Result<std::string> Answers::sysinfo_bytes(Layout layout) {
  const auto pick = [layout](const Sysinfo& made) {
    return layout == Layout::k64 ? made.bytes64 : made.bytes32;
  };
  const std::lock_guard making(sysinfo_mutex_);
  const std::uint64_t generation = container_->generation();
  const std::uint64_t now = coarse_monotonic_ns();
  if (sysinfo_ && sysinfo_->generation == generation && now - sysinfo_->made_ns < kShareNs)
    return pick(*sysinfo_);
  const view::Resources resources = UMWELT_TRY(container_->resources(kSysinfoNeeds));
  sysinfo_ = Sysinfo{render_sysinfo(resources, Layout::k64), render_sysinfo(resources, Layout::k32),
                     now, generation};
  return pick(*sysinfo_);
}

Reply Answers::sysinfo(const Request& request, const std::function<bool()>& waiting) {
  const auto bytes = sysinfo_bytes(request.layout);
  if (!bytes) return failed(EIO);
  return write(request, request.args[0], *bytes, 0, waiting);
}

Result<pid_t> Answers::target(const Request& request) const {
  const pid_t tid = request.pid_argument(0);
  if (tid == 0) return request.caller;
  return find_task(request.caller, tid);
}

Reply Answers::sched_getaffinity(const Request& request, const std::function<bool()>& waiting) {
  const auto known = this->known();
  if (!known) return failed(EIO);
  const view::Cpus& cpus = (*known)->cpus;
  const auto bytes = getaffinity_bytes((*known)->size, request.u32_argument(1), request.layout);
  if (!bytes) return failed(EINVAL);
  const auto task = target(request);
  const auto real = task ? get_affinity(*task) : fail(task.error());
  if (!real) return failed(real.error().code);
  const CpuSet shown = shown_affinity(cpus, *real);
  if (is_libnumas_first(request) && shown != *real) cover_status(request.caller);
  return write(request, request.args[2], cpus_to_bytes(shown, *bytes),
               static_cast<std::int64_t>(*bytes), waiting);
}

// Once for each process, as far as is remembered: it takes a millisecond, and locks that the mounts
// of the whole host share.
void Answers::cover_status(pid_t caller) {
  if (!cover_ || container_->record().number == 0) return;
  const auto process = process_of(caller);
  const auto born = process ? container::read_starttime(*process) : fail(process.error());
  if (!born) return;
  {
    const std::lock_guard lock(mutex_);
    if (cover_hangs_) return;
    if (asked_to_cover_.size() >= kMostCovered) asked_to_cover_.clear();
    if (std::exchange(asked_to_cover_[*process], *born) == *born) return;
  }
  const auto covered = cover_(container_->record(), *process);
  if (covered || covered.error().code != ETIMEDOUT) return;
  // What a container mounts on its /proc may hang as often as it likes, each time with a thread.
  const std::lock_guard lock(mutex_);
  cover_hangs_ = true;
}

// In the kernel's order: EFAULT, ESRCH, EPERM, EINVAL.
Reply Answers::sched_setaffinity(const Request& request, const std::function<bool()>& waiting) {
  const auto known = this->known();
  if (!known) return failed(EIO);
  const view::Cpus& cpus = (*known)->cpus;
  const std::size_t bytes =
      setaffinity_bytes((*known)->size, request.u32_argument(1), request.layout);
  const auto mask = read_memory(request.caller, request.args[2], bytes);
  if (!mask) return memory_failed(mask.error());
  const auto task = target(request);
  if (!task) return failed(task.error().code);
  const bool own = *task == request.caller;
  const auto born = [&] { return own ? 0 : container::read_starttime(*task).value_or(0); };
  const std::uint64_t known_birth = born();
  if (!own && !(may_schedule(request.caller, *task) &&
                is_in_cgroup(*task, container_->record().cgroup_paths))) {
    // Of a task that has gone nothing can be read.
    return failed(get_affinity(*task) ? EPERM : ESRCH);
  }
  const CpuSet asked = cpus_from_bytes(*mask) & cpus.online;
  const CpuSet real = real_affinity(cpus, asked);
  if (real.empty()) return failed(EINVAL);
  // The lock may be long in coming: who the ids belong to is asked right before they are used.
  const std::lock_guard lock(mutex_);
  if (!waiting() || born() != known_birth) return failed(ESRCH);
  if (const auto set = set_affinity(*task, real); !set) return failed(set.error().code);
  narrowed_.chose(*task, asked, container::boottime_ns());
  return {};
}

Reply Answers::getcpu(const Request& request, const std::function<bool()>& waiting) {
  const auto known = this->known();
  if (!known) return failed(EIO);
  const view::Cpus& cpus = (*known)->cpus;
  const auto real = get_affinity(request.caller);
  if (!real) return failed(real.error().code);
  // The kernel wakes this thread where the caller ran, if it may; every CPU that the caller may use
  // is a true answer, which anyway is old when it arrives.
  const int here = ::sched_getcpu();
  unsigned physical = here >= 0 ? static_cast<unsigned>(here) : 0;
  if (!real->test(physical) && !real->empty()) physical = real->first(1).ids().front();
  const std::uint64_t cpu_address = request.args[0], node_address = request.args[1];
  bool faulted = false;
  if (cpu_address != 0) {
    const auto reply =
        write(request, cpu_address, bytes_of(shown_cpu(cpus, *real, physical)), 0, waiting);
    if (reply.proceed) return reply;
    faulted = reply.error != 0;
  }
  if (node_address != 0) {
    const auto reply =
        write(request, node_address, bytes_of(node_of((*known)->host.get(), physical)), 0, waiting);
    faulted = faulted || reply.error != 0;
  }
  return faulted ? failed(EFAULT) : Reply{};
}

void Answers::container_changed() {
  const auto known = this->known();
  if (!known) return;
  const std::lock_guard lock(mutex_);
  if (narrowed_.size() > 0) narrowed_.apply((*known)->cpus);
}

}  // namespace umwelt::intercept
