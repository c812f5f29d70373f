// SPDX-License-Identifier: Apache-2.0
#include "cgroup/reader.h"

#include <sys/stat.h>

#include <optional>
#include <utility>

#include "cgroup/cpu_time.h"
#include "cgroup/directory.h"
#include "cgroup/hugetlb.h"
#include "cgroup/io.h"
#include "cgroup/limits.h"
#include "cgroup/memory.h"
#include "cgroup/pressure.h"
#include "cgroup/tasks.h"

namespace umwelt::cgroup {
namespace {

// Which files of which controller carry a limit; on v2 they are all in one directory.
struct LimitFile {
  const char* controller;
  const char* v1;
  const char* v2;
};

// What is written to, not what follows from it: the kernel announces only writes.
constexpr LimitFile kLimitFiles[] = {
    {"cpuset", "cpuset.cpus", "cpuset.cpus"},
    {"cpuset", "cpuset.mems", "cpuset.mems"},
    {"cpuset", "", "cpuset.cpus.partition"},
    {"cpu", "cpu.cfs_quota_us", "cpu.max"},
    {"cpu", "cpu.cfs_period_us", ""},
    {"cpu", "cpu.shares", "cpu.weight"},
    {"memory", "memory.limit_in_bytes", "memory.max"},
    {"memory", "memory.memsw.limit_in_bytes", "memory.swap.max"},
    {"pids", "pids.max", "pids.max"},
    {"", "", "cgroup.subtree_control"},  // a controller that is enabled late
};

// By their v1 names. Of those that the container has a cgroup of its own for the last in
// `kTaskControllers` tells its tasks.
constexpr const char* kTaskControllers[] = {"cpuset", "memory", "cpu", "cpuacct", "pids"};
constexpr const char* kOtherControllers[] = {"blkio", "hugetlb"};

}  // namespace

struct Reader::Impl {
  std::vector<std::unique_ptr<const Directory>> directories;  // each once
  std::map<std::string, const Directory*> by_controller;      // "" is cgroup2
  std::optional<MemoryReader> memory;
  std::optional<CpuTimeReader> cpu_time;
  std::optional<TasksReader> tasks;
  std::optional<IoReader> io;
  std::optional<PressureReader> pressure;
  std::optional<HugetlbReader> hugetlb;
  std::vector<std::uint64_t> huge_page_sizes;
  const Directory* tasks_directory = nullptr;
  unsigned quota_level = 0, memory_level = 0;  // as of the last read_limits()
  Limits limits;
  std::string buffer;

  const Directory* find(const std::string& controller) const {
    const auto found = by_controller.find(controller);
    return found == by_controller.end() ? nullptr : found->second;
  }

  // For what was used, not for limits: on v1 a container may be in the root of one hierarchy and
  // below that of another, and the root's counts are everybody's.
  const Directory* find_counts(const std::string& controller) const {
    const Directory* directory = find(controller);
    return directory && (directory->v2() || directory->depth() > 0) ? directory : nullptr;
  }

  Result<const Directory*> open(const std::string& root, const std::string& mount_point,
                                const std::string& path, bool v2);
  Result<void> open_all(const Hierarchies& hierarchies, const Paths& paths,
                        const std::string& root);
  Result<void> check_alive();
  Result<void> refresh(const MemoryLimit& memory_limit);
  Result<Limits> read_limits(const CpuSet& online);
};

// A hierarchy that carries several controllers is opened once.
Result<const Directory*> Reader::Impl::open(const std::string& root, const std::string& mount_point,
                                            const std::string& path, bool v2) {
  UMWELT_CHECK(check_path(path));
  auto directory = UMWELT_TRY(Directory::open(root + mount_point, path, v2));
  struct stat opened {
  }, other{};
  if (::fstat(directory->fd(), &opened) != 0) return fail_errno("stat cgroup " + path);
  for (const auto& known : directories) {
    if (::fstat(known->fd(), &other) == 0 && other.st_dev == opened.st_dev &&
        other.st_ino == opened.st_ino)
      return known.get();
  }
  directories.push_back(std::move(directory));
  return directories.back().get();
}

Result<void> Reader::Impl::check_alive() {
  for (const auto& directory : directories) UMWELT_CHECK(directory->check_alive(buffer));
  return {};
}

Result<void> Reader::Impl::refresh(const MemoryLimit& memory_limit) {
  if (memory) UMWELT_CHECK(memory->refresh(memory_limit));
  if (cpu_time) UMWELT_CHECK(cpu_time->refresh(quota_level));
  if (tasks) UMWELT_CHECK(tasks->refresh());
  if (io) UMWELT_CHECK(io->refresh());
  if (pressure) UMWELT_CHECK(pressure->refresh());
  return {};
}

Result<Limits> Reader::Impl::read_limits(const CpuSet& online) {
  Limits found;
  found.cpus = online;
  quota_level = 0;
  MemoryLimit memory_limit;
  if (const Directory* directory = find("cpuset")) {
    found.cpus = UMWELT_TRY(read_cpus(*directory, online, buffer));
    found.mems = UMWELT_TRY(read_mems(*directory, buffer));
  }
  if (const Directory* directory = find("cpu")) {
    const BandwidthLimit limit = UMWELT_TRY(read_bandwidth(*directory, buffer));
    found.bandwidth = limit.bandwidth;
    quota_level = limit.level;
    found.cpu_weight = UMWELT_TRY(read_cpu_weight(*directory, buffer));
  }
  if (const Directory* directory = find("memory")) {
    memory_limit = UMWELT_TRY(read_memory_limit(*directory, buffer));
    found.memory_max_bytes = memory_limit.max_bytes;
    found.swap_max_bytes = memory_limit.swap_max_bytes;
  }
  if (const Directory* directory = find("pids"))
    found.pids_max = UMWELT_TRY(read_smallest(*directory, "pids.max", buffer)).max;
  if (const Directory* directory = find("hugetlb")) {
    HugetlbLimits hugetlb_limits =
        UMWELT_TRY(read_hugetlb_limits(*directory, huge_page_sizes, buffer));
    found.hugetlb = std::move(hugetlb_limits.limits);
    UMWELT_CHECK(hugetlb->refresh(hugetlb_limits.levels));
  }
  memory_level = memory_limit.level;
  UMWELT_CHECK(refresh(memory_limit));
  // In a removed cgroup no file seems to be there, as if nothing were limited.
  UMWELT_CHECK(check_alive());
  return found;
}

Reader::Reader() : impl_(std::make_unique<Impl>()) {}
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;
Reader::~Reader() = default;

Result<void> Reader::Impl::open_all(const Hierarchies& hierarchies, const Paths& paths,
                                    const std::string& root) {
  const Directory* v2 = nullptr;
  if (const auto path = paths.find(""); path != paths.end() && !hierarchies.v2.empty()) {
    v2 = UMWELT_TRY(open(root, hierarchies.v2, path->second, true));
    by_controller[""] = v2;
  }
  const auto open_controller = [&](const std::string& controller) -> Result<void> {
    const auto mount_point = hierarchies.v1.find(controller);
    const auto path = paths.find(controller);
    const Directory* directory = v2;
    // Bound to v1, the controller is nowhere in v2.
    if (mount_point != hierarchies.v1.end()) {
      if (path == paths.end()) return {};
      directory = UMWELT_TRY(open(root, mount_point->second, path->second, false));
    }
    if (directory) by_controller[controller] = directory;
    return {};
  };
  for (const char* controller : kTaskControllers) UMWELT_CHECK(open_controller(controller));
  for (const char* controller : kOtherControllers) UMWELT_CHECK(open_controller(controller));
  if (directories.empty()) return fail(ENOENT, "none of the cgroup's hierarchies is mounted");
  return {};
}

Result<Reader> Reader::open(const Hierarchies& hierarchies, const Paths& paths,
                            const std::string& root, const CpuSet& online) {
  Reader reader;
  Impl& impl = *reader.impl_;
  const std::string prefix = root == "/" ? "" : root;
  UMWELT_CHECK(impl.open_all(hierarchies, paths, prefix));
  const Directory* tasks = nullptr;
  for (const char* controller : kTaskControllers) {
    const Directory* directory = impl.find(controller);
    if (directory && (!tasks || directory->depth() > 0)) tasks = directory;
  }
  impl.cpu_time.emplace(impl.find_counts("cpu"), impl.find_counts("cpuacct"));
  impl.tasks_directory = tasks;
  if (tasks) impl.tasks.emplace(tasks, prefix);
  if (const Directory* directory = impl.find_counts("memory")) impl.memory.emplace(directory);
  if (const Directory* directory = impl.find("blkio"); directory && directory->depth() > 0)
    impl.io.emplace(directory);
  if (const Directory* directory = impl.find(""); directory && directory->depth() > 0)
    impl.pressure.emplace(directory);
  if (const Directory* directory = impl.find("hugetlb")) {
    impl.huge_page_sizes = read_huge_page_sizes(prefix);
    impl.hugetlb.emplace(directory, impl.huge_page_sizes);
  }
  impl.limits = UMWELT_TRY(impl.read_limits(online));
  return reader;
}

Result<Limits> Reader::read_limits(const CpuSet& online) {
  impl_->limits = UMWELT_TRY(impl_->read_limits(online));
  return impl_->limits;
}

const Limits& Reader::limits() const { return impl_->limits; }

Result<bool> Reader::sets_changed(const CpuSet& online) {
  Impl& impl = *impl_;
  const Directory* directory = impl.find("cpuset");
  if (!directory) return false;
  return UMWELT_TRY(read_cpus(*directory, online, impl.buffer)) != impl.limits.cpus ||
         UMWELT_TRY(read_mems(*directory, impl.buffer)) != impl.limits.mems;
}

Result<State> Reader::read(unsigned parts) {
  Impl& impl = *impl_;
  State state;
  state.limits = impl.limits;
  if (parts & (kMemory | kSwap)) {
    const bool swap = (parts & kSwap) != 0;
    state.memory = impl.memory ? UMWELT_TRY(impl.memory->read(swap, impl.buffer)) : Memory();
  }
  if (parts & kMemoryEvents) {
    state.memory_events =
        impl.memory ? UMWELT_TRY(impl.memory->read_events(impl.buffer)) : MemoryEvents();
  }
  if (parts & kCpuTime) state.cpu_time = UMWELT_TRY(impl.cpu_time->read(impl.buffer));
  if (parts & kTasks)
    state.tasks = impl.tasks ? UMWELT_TRY(impl.tasks->read(impl.buffer)) : Tasks();
  if (parts & kIo)
    state.io = impl.io ? UMWELT_TRY(impl.io->read(impl.buffer)) : std::vector<DeviceIo>();
  if (parts & kPressure)
    state.pressure = impl.pressure ? UMWELT_TRY(impl.pressure->read(impl.buffer)) : Pressure();
  if (parts & kHugetlb) {
    state.hugetlb =
        impl.hugetlb ? UMWELT_TRY(impl.hugetlb->read(impl.buffer)) : std::vector<HugetlbUsage>();
  }
  return state;
}

Result<UniqueFd> Reader::open_pressure(const std::string& resource) const {
  const Directory* directory = impl_->find("");
  if (!directory || directory->depth() == 0) return fail(ENOENT, "pressure without cgroup2");
  return cgroup::open_pressure(*directory, resource);
}

std::vector<std::string> Reader::limit_files() const {
  std::vector<std::string> files;
  const auto add = [&](const Directory& directory, const std::string& file) {
    for (unsigned level = 0; level <= directory.depth(); ++level) {
      if (auto path = directory.existing_path(level, file); !path.empty())
        files.push_back(std::move(path));
    }
  };
  for (const LimitFile& row : kLimitFiles) {
    const Directory* directory = impl_->find(row.controller);
    if (!directory) continue;
    const std::string file = directory->v2() ? row.v2 : row.v1;
    if (!file.empty()) add(*directory, file);
  }
  if (const Directory* directory = impl_->find("hugetlb")) {
    for (const std::uint64_t page_bytes : impl_->huge_page_sizes)
      add(*directory, hugetlb_file(page_bytes, false, directory->v2()));
  }
  return files;
}

std::vector<KernelValue> Reader::origin_of(std::string_view name) const {
  return cgroup::origin_of(
      {impl_->by_controller, impl_->tasks_directory, impl_->quota_level, impl_->memory_level},
      name);
}

std::uint64_t Reader::inode() const {
  const Directory* directory = impl_->find("memory");
  if (!directory) directory = impl_->directories.front().get();
  struct stat status {};
  return ::fstat(directory->fd(), &status) == 0 ? status.st_ino : 0;
}

}  // namespace umwelt::cgroup
