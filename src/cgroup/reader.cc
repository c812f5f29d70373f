// SPDX-License-Identifier: Apache-2.0
#include "cgroup/reader.h"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "base/apart.h"
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
    {"memory", "memory.limit_in_bytes", "memory.max"},
    {"memory", "memory.memsw.limit_in_bytes", "memory.swap.max"},
    {"memory", "memory.swappiness", ""},
    {"pids", "pids.max", "pids.max"},
    {"", "", "cgroup.subtree_control"},  // a controller that is enabled late
};

// By their v1 names. Of those that the container has a cgroup of its own for the last in
// `kTaskControllers` tells its tasks.
constexpr const char* kTaskControllers[] = {"cpuset", "memory", "cpu", "cpuacct", "pids"};
constexpr const char* kOtherControllers[] = {"blkio", "hugetlb"};

constexpr std::chrono::milliseconds kPatience{200};

}  // namespace

// What finding names takes: shared with the thread in which that is done.
struct Reader::Directories {
  std::vector<std::unique_ptr<const Directory>> all;      // each once
  std::map<std::string, const Directory*> by_controller;  // "" is cgroup2
  std::vector<std::uint64_t> huge_page_sizes;

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
  Result<void> open_wanted() const;
  bool want_more() const;
  Result<void> check_alive(std::string& buffer) const;
  Result<Found> find_limits(const CpuSet& online) const;
  Result<Sets> find_sets(const CpuSet& online) const;
  std::vector<std::string> limit_files() const;
};

// Limits, and where those are set that a use is compared with.
struct Reader::Found {
  Limits limits;
  MemoryLimit memory;
  unsigned quota_level = 0;
  bool ancestor_has_quota = false;
  std::vector<unsigned> hugetlb_levels;
};

struct Reader::Sets {
  CpuSet cpus, mems;
};

struct Reader::Impl {
  std::shared_ptr<Directories> directories = std::make_shared<Directories>();
  std::optional<MemoryReader> memory;
  std::optional<CpuTimeReader> cpu_time;
  std::optional<TasksReader> tasks;
  std::optional<IoReader> io;
  std::optional<PressureReader> pressure;
  std::optional<HugetlbReader> hugetlb;
  const Directory* tasks_directory = nullptr;
  unsigned quota_level = 0, memory_level = 0;  // as of the last read_limits()
  Limits limits;
  std::string buffer;
  Apart apart;  // for the directories

  void make_readers(const std::string& root);
  void adopt(const Found& found);

  // `find` is given the directories.
  template <class T, class Find>
  Result<T> find_apart(Find find) {
    return apart.run<T>(Apart::shared(kPatience),
                        [known = std::shared_ptr<const Directories>(directories),
                         find = std::move(find)]() -> Result<T> { return find(*known); });
  }
};

// A hierarchy that carries several controllers is opened once.
Result<const Directory*> Reader::Directories::open(const std::string& root,
                                                   const std::string& mount_point,
                                                   const std::string& path, bool v2) {
  UMWELT_CHECK(check_path(path));
  auto directory = UMWELT_TRY(Directory::open(root + mount_point, path, v2));
  struct stat opened {
  }, other{};
  if (::fstat(directory->fd(), &opened) != 0) return fail_errno("stat cgroup " + path);
  for (const auto& known : all) {
    if (::fstat(known->fd(), &other) == 0 && other.st_dev == opened.st_dev &&
        other.st_ino == opened.st_ino)
      return known.get();
  }
  all.push_back(std::move(directory));
  return all.back().get();
}

Result<void> Reader::Directories::check_alive(std::string& buffer) const {
  for (const auto& directory : all) UMWELT_CHECK(directory->check_alive(buffer));
  return {};
}

Result<void> Reader::Directories::open_wanted() const {
  for (const auto& directory : all) UMWELT_CHECK(directory->open_wanted());
  return {};
}

bool Reader::Directories::want_more() const {
  return std::any_of(all.begin(), all.end(),
                     [](const auto& directory) { return directory->wants_more(); });
}

Result<Reader::Sets> Reader::Directories::find_sets(const CpuSet& online) const {
  const Directory* directory = find("cpuset");
  if (!directory) return Sets{online, {}};
  std::string buffer;
  return Sets{UMWELT_TRY(read_cpus(*directory, online, buffer)),
              UMWELT_TRY(read_mems(*directory, buffer))};
}

Result<Reader::Found> Reader::Directories::find_limits(const CpuSet& online) const {
  std::string buffer;
  Found found;
  Limits& limits = found.limits;
  Sets sets = UMWELT_TRY(find_sets(online));
  limits.cpus = std::move(sets.cpus);
  limits.mems = std::move(sets.mems);
  if (const Directory* directory = find("cpu")) {
    const BandwidthLimit limit = UMWELT_TRY(read_bandwidth(*directory, buffer));
    limits.bandwidth = limit.bandwidth;
    found.quota_level = limit.level;
    found.ancestor_has_quota = limit.of_ancestor;
  }
  if (const Directory* directory = find("memory")) {
    found.memory = UMWELT_TRY(read_memory_limit(*directory, buffer));
    limits.memory_max_bytes = found.memory.max_bytes;
    limits.swap_max_bytes = found.memory.swaps ? found.memory.swap_max_bytes : std::uint64_t{0};
  }
  if (const Directory* directory = find("pids"))
    limits.pids_max = UMWELT_TRY(read_smallest(*directory, "pids.max", buffer)).max;
  if (const Directory* directory = find("hugetlb")) {
    HugetlbLimits hugetlb = UMWELT_TRY(read_hugetlb_limits(*directory, huge_page_sizes, buffer));
    limits.hugetlb = std::move(hugetlb.limits);
    found.hugetlb_levels = std::move(hugetlb.levels);
  }
  UMWELT_CHECK(open_wanted());
  // In a removed cgroup no file seems to be there, as if nothing were limited.
  UMWELT_CHECK(check_alive(buffer));
  return found;
}

std::vector<std::string> Reader::Directories::limit_files() const {
  std::vector<std::string> files;
  const auto add = [&](const Directory& directory, const std::string& file) {
    for (unsigned level = 0; level <= directory.depth(); ++level) {
      if (auto path = directory.existing_path(level, file); !path.empty())
        files.push_back(std::move(path));
    }
  };
  for (const LimitFile& row : kLimitFiles) {
    const Directory* directory = find(row.controller);
    if (!directory) continue;
    const std::string file = directory->v2() ? row.v2 : row.v1;
    if (!file.empty()) add(*directory, file);
  }
  if (const Directory* directory = find("hugetlb")) {
    for (const std::uint64_t page_bytes : huge_page_sizes)
      add(*directory, hugetlb_file(page_bytes, false, directory->v2()));
  }
  return files;
}

void Reader::Impl::adopt(const Found& found) {
  limits = found.limits;
  quota_level = found.quota_level;
  memory_level = found.memory.level;
  if (hugetlb) hugetlb->refresh(found.hugetlb_levels);
  if (memory) memory->refresh(found.memory);
  if (cpu_time) cpu_time->refresh(found.ancestor_has_quota);
  if (tasks) tasks->refresh();
  if (io) io->refresh();
  if (pressure) pressure->refresh();
}

Reader::Reader() : impl_(std::make_unique<Impl>()) {}
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;
Reader::~Reader() = default;

Result<void> Reader::Directories::open_all(const Hierarchies& hierarchies, const Paths& paths,
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
  if (all.empty()) return fail(ENOENT, "none of the cgroup's hierarchies is mounted");
  return {};
}

void Reader::Impl::make_readers(const std::string& root) {
  Directories& known = *directories;
  for (const char* controller : kTaskControllers) {
    const Directory* directory = known.find(controller);
    if (directory && (!tasks_directory || directory->depth() > 0)) tasks_directory = directory;
  }
  cpu_time.emplace(known.find_counts("cpu"), known.find_counts("cpuacct"));
  if (tasks_directory) tasks.emplace(tasks_directory, root);
  if (const Directory* directory = known.find_counts("memory")) memory.emplace(directory);
  if (const Directory* directory = known.find("blkio"); directory && directory->depth() > 0)
    io.emplace(directory);
  if (const Directory* directory = known.find(""); directory && directory->depth() > 0)
    pressure.emplace(directory);
  if (const Directory* directory = known.find("hugetlb")) {
    known.huge_page_sizes = read_huge_page_sizes(root);
    hugetlb.emplace(directory, known.huge_page_sizes);
  }
}

Result<Reader> Reader::open(const Hierarchies& hierarchies, const Paths& paths,
                            const std::string& root, const CpuSet& online) {
  Reader reader;
  Impl& impl = *reader.impl_;
  const std::string prefix = root == "/" ? "" : root;
  UMWELT_CHECK(impl.directories->open_all(hierarchies, paths, prefix));
  impl.make_readers(prefix);
  const Found found = UMWELT_TRY(impl.directories->find_limits(online));
  impl.adopt(found);
  while (impl.directories->want_more()) {
    UMWELT_CHECK(impl.directories->open_wanted());
    impl.adopt(found);
  }
  return reader;
}

Result<Limits> Reader::read_limits(const CpuSet& online) {
  Impl& impl = *impl_;
  const Found found = UMWELT_TRY(impl.find_apart<Found>(
      [online](const Directories& known) { return known.find_limits(online); }));
  impl.adopt(found);
  // Of a limit that is set somewhere else now the files are others.
  while (impl.directories->want_more()) {
    const auto opened = impl.find_apart<bool>([](const Directories& known) -> Result<bool> {
      UMWELT_CHECK(known.open_wanted());
      return true;
    });
    if (!opened) break;  // the next time
    impl.adopt(found);
  }
  return impl.limits;
}

const Limits& Reader::limits() const { return impl_->limits; }

Result<bool> Reader::sets_changed(const CpuSet& online) {
  Impl& impl = *impl_;
  if (!impl.directories->find("cpuset")) return false;
  const Sets sets = UMWELT_TRY(impl.find_apart<Sets>(
      [online](const Directories& known) { return known.find_sets(online); }));
  return sets.cpus != impl.limits.cpus || sets.mems != impl.limits.mems;
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

Result<UniqueFd> Reader::open_pressure(const std::string& resource) {
  const Directory* directory = impl_->directories->find("");
  if (!directory || directory->depth() == 0) return fail(ENOENT, "pressure without cgroup2");
  return impl_->find_apart<UniqueFd>([resource](const Directories& known) {
    return cgroup::open_pressure(*known.find(""), resource);
  });
}

Result<std::vector<std::string>> Reader::limit_files() {
  using Files = std::vector<std::string>;
  return impl_->find_apart<Files>(
      [](const Directories& known) -> Result<Files> { return known.limit_files(); });
}

Result<std::vector<KernelValue>> Reader::origin_of(const std::string& name) {
  using Values = std::vector<KernelValue>;
  return impl_->find_apart<Values>(
      [name, tasks = impl_->tasks_directory, quota = impl_->quota_level,
       memory = impl_->memory_level](const Directories& known) -> Result<Values> {
        return cgroup::origin_of({known.by_controller, tasks, quota, memory}, name);
      });
}

// The root of a hierarchy is not a container's.
std::uint64_t Reader::inode() const {
  const Directories& known = *impl_->directories;
  const Directory* directory = known.find_counts("memory");
  for (const auto& other : known.all)
    if (!directory || directory->depth() == 0) directory = other.get();
  struct stat status {};
  return ::fstat(directory->fd(), &status) == 0 ? status.st_ino : 0;
}

}  // namespace umwelt::cgroup
