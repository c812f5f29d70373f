// SPDX-License-Identifier: Apache-2.0
#include "intercept/task.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/nsfs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <optional>
#include <vector>

#include "base/file.h"
#include "base/parse.h"
#include "container/caller.h"
#include "intercept/affinity.h"

#ifndef NS_GET_PID_FROM_PIDNS
#define NS_GET_PID_FROM_PIDNS _IOR(NSIO, 0x6, int)  // Linux 6.11
#endif

namespace umwelt::intercept {
namespace {

constexpr std::size_t kMaxBytes = 64U << 10;
constexpr std::size_t kAffinityBytes = (CpuSet::kMaxId + 1) / 8;
constexpr unsigned kMaxNamespaces = 32;  // MAX_PID_NS_LEVEL

// What a task has of /proc/PID/status (proc(5)).
struct Status {
  pid_t tgid = 0;
  std::vector<pid_t> ids;  // in our pid namespace, in the next one ... in its own
  std::uint64_t real_uid = 0, effective_uid = 0, capabilities = 0;
};

std::string proc_path(pid_t task, const char* name) {
  return fmt::format("/proc/{}/{}", task, name);
}

tl::unexpected<Error> gone(pid_t task) { return fail(ESRCH, fmt::format("task {}", task)); }

Result<Status> read_status(pid_t task) {
  const auto text = read_file(proc_path(task, "status"));
  if (!text) return gone(task);
  Status status;
  std::string_view rest = *text;
  while (auto line = next_line(rest)) {
    const std::string_view key = next_word(*line);
    const auto number = [&] { return parse_u64(next_word(*line)).value_or(0); };
    if (key == "Tgid:") {
      status.tgid = static_cast<pid_t>(number());
    } else if (key == "NSpid:") {
      for (auto word = next_word(*line); !word.empty(); word = next_word(*line))
        status.ids.push_back(static_cast<pid_t>(parse_u64(word).value_or(0)));
    } else if (key == "Uid:") {
      status.real_uid = number();
      status.effective_uid = number();
    } else if (key == "CapEff:") {
      const std::string_view hex = next_word(*line);
      std::from_chars(hex.data(), hex.data() + hex.size(), status.capabilities, 16);
    }
  }
  return status;
}

std::optional<ino_t> inode_of(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return std::nullopt;
  return status.st_ino;
}

// Whether the namespace `type` of `task`, or one that it lies in, is the one with this inode.
bool lies_in(pid_t task, const char* type, ino_t inode) {
  auto opened = open_at(AT_FDCWD, proc_path(task, type), O_RDONLY);
  if (!opened) return false;
  UniqueFd ns = std::move(*opened);
  for (unsigned i = 0; i <= kMaxNamespaces; ++i) {
    if (inode_of(ns.get()) == inode) return true;
    UniqueFd parent(::ioctl(ns.get(), NS_GET_PARENT));
    if (!parent) return false;
    ns = std::move(parent);
  }
  return false;
}

std::vector<pid_t> threads_of(pid_t process) {
  std::vector<pid_t> threads;
  std::error_code error;
  std::filesystem::directory_iterator it(fmt::format("/proc/{}/task", process), error);
  for (; !error && it != std::filesystem::directory_iterator(); it.increment(error))
    if (const auto id = parse_u64(it->path().filename().string()))
      threads.push_back(static_cast<pid_t>(*id));
  return threads;
}

// Which processes lie in a pid namespace: by a stat(2) of each, and a walk for each namespace. A
// hint: the number of one that ends meanwhile is given to the next.
class PidNamespace {
 public:
  explicit PidNamespace(ino_t inode) : inside_{{inode, true}}, inode_(inode) {}
  bool has(pid_t process) {
    struct stat status {};
    if (::stat(proc_path(process, "ns/pid").c_str(), &status) != 0) return false;
    const auto [known, is_new] = inside_.emplace(status.st_ino, false);
    if (is_new) known->second = lies_in(process, "ns/pid", inode_);
    return known->second;
  }

 private:
  std::map<ino_t, bool> inside_;
  const ino_t inode_;
};

// A kernel address; what the calls below would say of it is not always EFAULT (vsyscall page).
bool is_user_memory(std::uint64_t address, std::size_t bytes) {
  return address >> 63 == 0 && (address + bytes) >> 63 == 0;
}

}  // namespace

Result<pid_t> search_task(pid_t caller, pid_t tid) {
  const Status own = UMWELT_TRY(read_status(caller));
  const std::size_t level = own.ids.size();
  if (level == 0) return gone(tid);
  if (own.ids.back() == tid) return caller;
  const auto ns = open_at(AT_FDCWD, proc_path(caller, "ns/pid"), O_RDONLY);
  const auto inode = ns ? inode_of(ns->get()) : std::nullopt;
  if (!inode) return gone(caller);
  const auto in = [&](pid_t process) -> std::optional<pid_t> {
    for (const pid_t thread : threads_of(process)) {
      const auto status = read_status(thread);
      if (status && status->ids.size() >= level && status->ids[level - 1] == tid &&
          lies_in(thread, "ns/pid", *inode))
        return thread;
    }
    return std::nullopt;
  };
  if (const auto found = in(own.tgid)) return *found;
  PidNamespace seen(*inode);
  std::error_code error;
  std::filesystem::directory_iterator it("/proc", error);
  for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const auto process = parse_u64(it->path().filename().string());
    if (!process || !seen.has(static_cast<pid_t>(*process))) continue;
    if (const auto found = in(static_cast<pid_t>(*process))) return *found;
  }
  return gone(tid);
}

Result<std::string> read_memory(pid_t task, std::uint64_t address, std::size_t bytes) {
  std::string out(std::min(bytes, kMaxBytes), '\0');
  if (out.empty()) return out;
  if (!is_user_memory(address, bytes)) return fail(EFAULT, "read");
  const iovec local{out.data(), out.size()}, remote{reinterpret_cast<void*>(address), out.size()};
  const ssize_t n = ::process_vm_readv(task, &local, 1, &remote, 1, 0);
  if (n < 0) return fail_errno("read the memory of a task");
  if (static_cast<std::size_t>(n) != out.size()) return fail(EFAULT, "read the memory of a task");
  return out;
}

Result<void> write_memory(pid_t task, std::uint64_t address, std::string_view bytes) {
  if (bytes.empty()) return {};
  if (!is_user_memory(address, bytes.size())) return fail(EFAULT, "write");
  const iovec local{const_cast<char*>(bytes.data()), bytes.size()},
      remote{reinterpret_cast<void*>(address), bytes.size()};
  const ssize_t n = ::process_vm_writev(task, &local, 1, &remote, 1, 0);
  if (n < 0) return fail_errno("write the memory of a task");
  if (static_cast<std::size_t>(n) != bytes.size()) return fail(EFAULT, "write");
  return {};
}

Result<pid_t> find_task(pid_t caller, pid_t tid) {
  if (tid <= 0) return gone(tid);
  const auto ns = open_at(AT_FDCWD, proc_path(caller, "ns/pid"), O_RDONLY);
  if (!ns) return gone(caller);
  const int found = ::ioctl(ns->get(), NS_GET_PID_FROM_PIDNS, tid);
  if (found > 0) return found;
  if (errno != ENOTTY && errno != EINVAL) return gone(tid);
  return search_task(caller, tid);
}

Result<pid_t> id_for(pid_t viewer, pid_t task) {
  const Status own = UMWELT_TRY(read_status(viewer));
  const std::size_t level = own.ids.size();
  if (level == 0) return gone(viewer);
  if (viewer == task) return own.ids.back();
  const auto ns = UMWELT_TRY(open_at(AT_FDCWD, proc_path(viewer, "ns/pid"), O_RDONLY));
  const auto inode = inode_of(ns.get());
  const auto other = read_status(task);
  if (!inode || !other || other->ids.size() < level || !lies_in(task, "ns/pid", *inode)) return 0;
  return other->ids[level - 1];
}

Result<pid_t> process_of(pid_t task) { return UMWELT_TRY(read_status(task)).tgid; }

bool is_in_cgroup(pid_t task, const cgroup::Paths& paths) {
  const auto text = container::read_proc_cgroup(task);
  if (!text) return false;
  const auto own = cgroup::parse_proc_cgroup(*text);
  return own && container::contains(paths, *own);
}

bool is_of_container(pid_t task, const container::Record& record) {
  if (is_in_cgroup(task, record.cgroup_paths)) return true;
  if (record.init_pid == 0) return false;
  struct stat ours {
  }, theirs{};
  if (::stat("/proc/self/ns/pid", &ours) != 0 ||
      ::stat(proc_path(record.init_pid, "ns/pid").c_str(), &theirs) != 0)
    return false;
  return theirs.st_ino != ours.st_ino && lies_in(task, "ns/pid", theirs.st_ino) &&
         container::read_starttime(record.init_pid).value_or(0) == record.init_starttime;
}

bool may_schedule(pid_t caller, pid_t target) {
  if (caller == target) return true;
  const auto from = read_status(caller), to = read_status(target);
  if (!from || !to) return false;
  if (from->effective_uid == to->effective_uid || from->effective_uid == to->real_uid) return true;
  if ((from->capabilities >> CAP_SYS_NICE & 1) == 0) return false;
  const auto own = open_at(AT_FDCWD, proc_path(caller, "ns/user"), O_RDONLY);
  const auto inode = own ? inode_of(own->get()) : std::nullopt;
  return inode && lies_in(target, "ns/user", *inode);
}

std::size_t affinity_bytes() {
  std::string bytes(kAffinityBytes, '\0');
  const long n = ::syscall(SYS_sched_getaffinity, 0, bytes.size(), bytes.data());
  return n > 0 ? static_cast<std::size_t>(n) : sizeof(long);
}

Result<CpuSet> get_affinity(pid_t task) {
  std::string bytes(kAffinityBytes, '\0');
  const long n = ::syscall(SYS_sched_getaffinity, task, bytes.size(), bytes.data());
  if (n < 0) return fail_errno("sched_getaffinity");
  return cpus_from_bytes(std::string_view(bytes).substr(0, static_cast<std::size_t>(n)));
}

Result<void> set_affinity(pid_t task, const CpuSet& cpus) {
  static const std::string all(kAffinityBytes, '\xff');
  const std::string bytes = cpus == every_cpu() ? all : cpus_to_bytes(cpus, kAffinityBytes);
  if (::syscall(SYS_sched_setaffinity, task, bytes.size(), bytes.data()) != 0)
    return fail_errno("sched_setaffinity");
  return {};
}

}  // namespace umwelt::intercept
