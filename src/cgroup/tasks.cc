// SPDX-License-Identifier: Apache-2.0
#include "cgroup/tasks.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "base/file.h"
#include "base/parse.h"
#include "cgroup/cgroupstats.h"
#include "cgroup/parse.h"

namespace umwelt::cgroup {
namespace {

constexpr std::chrono::milliseconds kPatience{200};

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

// Adds the child directories of `path` below `base`, up to kMaxCgroups in all; none when it is
// gone.
void add_children(int base, const std::string& path, std::vector<std::string>& paths) {
  auto fd = open_at(base, path, O_RDONLY | O_DIRECTORY);
  if (!fd) return;
  const std::unique_ptr<DIR, CloseDirectory> directory(::fdopendir(fd->get()));
  if (!directory) return;
  fd->release();
  const std::string prefix = path == "." ? "" : path + "/";
  while (paths.size() < TasksReader::kMaxCgroups) {
    const dirent* entry = ::readdir(directory.get());
    if (!entry) break;
    const std::string_view name = entry->d_name;
    if (entry->d_type == DT_DIR && name != "." && name != "..")
      paths.push_back(prefix + entry->d_name);
  }
}

// cgroupfs counts a directory's children in its link count; file systems that don't say 1.
bool has_children(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) != 0 || status.st_nlink != 2;
}

// A file that is read through, of a cgroup that may go away at any time: "" then. A threaded v2
// cgroup has no cgroup.procs to read (EOPNOTSUPP).
Result<std::string_view> read_list(int directory, const char* file, std::string& buffer) {
  auto fd = open_at(directory, file, O_RDONLY);
  auto text = fd ? pread_all(fd->get(), buffer) : fail(fd.error());
  if (text) return text;
  const int code = text.error().code;
  if (code == ENOENT || code == ENODEV || code == EOPNOTSUPP) return std::string_view();
  return text;
}

}  // namespace

// What one walk over cgroups has counted so far.
struct TasksReader::Counted {
  Tasks tasks;
  bool total_known = false;            // from pids.current, which has the descendants
  std::vector<std::uint32_t> threads;  // whose states have to be read from /proc
  std::uint64_t last_pid = 0;

  // Ids are given out in ascending order up to pid_max, then from the beginning again; so the
  // newest is the next below the one given out last.
  void compare(const std::vector<std::uint32_t>& ids) {
    const auto order = [&](std::uint32_t id) { return std::pair(id <= last_pid, id); };
    for (const std::uint32_t id : ids)
      if (tasks.newest == 0 || order(id) > order(tasks.newest)) tasks.newest = id;
  }
  void add(const Counted& other) {
    tasks.processes += other.tasks.processes;
    if (!total_known) tasks.total += other.tasks.total;
    tasks.running += other.tasks.running;
    tasks.uninterruptible += other.tasks.uninterruptible;
    if (other.tasks.newest != 0) compare({other.tasks.newest});
    threads.insert(threads.end(), other.threads.begin(), other.threads.end());
  }
};

// Of one thread.
class TasksReader::Counter {
 public:
  explicit Counter(bool v2) : v2_(v2), try_cgroupstats_(!v2) {}

  Result<void> count(int cgroup, std::string& buffer, Counted& counted);
  Result<void> count_descendants(int cgroup, std::string& buffer, Counted& counted);

 private:
  Result<void> count_states(int cgroup, Counted& counted);

  bool v2_, try_cgroupstats_;
  std::optional<Cgroupstats> cgroupstats_;
};

struct TasksReader::Below {
  UniqueFd directory;
  Counter counter;
};

Result<void> TasksReader::Counter::count(int cgroup, std::string& buffer, Counted& counted) {
  const auto processes = UMWELT_TRY(read_list(cgroup, "cgroup.procs", buffer));
  const std::vector<std::uint32_t> pids = parse_ids(processes);
  counted.tasks.processes += pids.size();
  counted.compare(pids);
  UMWELT_CHECK(count_states(cgroup, counted));
  if (cgroupstats_ && counted.total_known) return {};
  const auto text = UMWELT_TRY(read_list(cgroup, v2_ ? "cgroup.threads" : "tasks", buffer));
  const std::vector<std::uint32_t> threads = parse_ids(text);
  if (!counted.total_known) counted.tasks.total += threads.size();
  counted.compare(threads);
  if (!cgroupstats_) counted.threads.insert(counted.threads.end(), threads.begin(), threads.end());
  return {};
}

Result<void> TasksReader::Counter::count_states(int cgroup, Counted& counted) {
  if (try_cgroupstats_ && !cgroupstats_) {
    auto opened = Cgroupstats::open();
    try_cgroupstats_ = opened.has_value();
    if (opened) cgroupstats_ = std::move(*opened);
  }
  if (!cgroupstats_) return {};
  auto states = cgroupstats_->read(cgroup);
  if (states) {
    counted.tasks.running += states->running;
    // Killable sleeps are counted as waiting for I/O only.
    counted.tasks.uninterruptible += states->uninterruptible + states->io_wait;
  } else if (states.error().code == EINVAL) {
    cgroupstats_.reset();  // a recorded tree
    try_cgroupstats_ = false;
  } else if (states.error().code != ENODEV) {
    return fail(states.error());
  }
  return {};
}

Result<void> TasksReader::Counter::count_descendants(int cgroup, std::string& buffer,
                                                     Counted& counted) {
  std::vector<std::string> paths;
  add_children(cgroup, ".", paths);
  for (std::size_t i = 0; i < paths.size(); ++i) {
    auto fd = open_at(cgroup, paths[i], O_RDONLY | O_DIRECTORY);
    if (!fd) continue;  // gone
    UMWELT_CHECK(count(fd->get(), buffer, counted));
    if (has_children(fd->get())) add_children(cgroup, std::string(paths[i]), paths);
  }
  return {};
}

TasksReader::TasksReader(const Directory* directory, std::string root)
    : directory_(directory),
      root_(std::move(root)),
      pids_current_(directory, 0, "pids.current"),
      own_(std::make_unique<Counter>(directory->v2())),
      last_below_(std::make_unique<Counted>()) {
  // Known from now on, so that nobody has to wait for the directory's lock.
  for (const char* file : {"cgroup.procs", directory->v2() ? "cgroup.threads" : "tasks"})
    (void)directory->existing_path(0, file);
}

TasksReader::TasksReader(TasksReader&&) noexcept = default;
TasksReader& TasksReader::operator=(TasksReader&&) noexcept = default;
TasksReader::~TasksReader() = default;

void TasksReader::refresh() { pids_current_.refresh(); }

// The lock of a directory may be held for ever, by who lists it: then what was counted last counts.
Result<void> TasksReader::count_below(Counted& counted) {
  if (!below_) {
    UniqueFd copy(::fcntl(directory_->fd(), F_DUPFD_CLOEXEC, 3));
    if (!copy) return fail_errno("duplicate a cgroup's descriptor");
    below_ = std::make_shared<Below>(Below{std::move(copy), Counter(directory_->v2())});
  }
  Counted start;
  start.total_known = counted.total_known;
  start.last_pid = counted.last_pid;
  auto found =
      apart_.run<Counted>(Apart::shared(kPatience), [below = below_, start]() -> Result<Counted> {
        std::string buffer;
        Counted result = start;
        UMWELT_CHECK(below->counter.count_descendants(below->directory.get(), buffer, result));
        return result;
      });
  if (found)
    *last_below_ = std::move(*found);
  else if (found.error().code != ETIMEDOUT && found.error().code != EAGAIN)
    return fail(found.error());
  counted.add(*last_below_);
  return {};
}

Result<void> TasksReader::open_proc() {
  if (!proc_) proc_ = UMWELT_TRY(open_at(AT_FDCWD, root_ + "/proc", O_PATH | O_DIRECTORY));
  return {};
}

// 0 where it can't be told: then the highest id counts as the newest.
std::uint64_t TasksReader::read_last_pid(std::string& buffer) {
  if (!open_proc()) return 0;
  if (!loadavg_) {
    auto fd = open_at(proc_.get(), "loadavg", O_RDONLY);
    if (!fd) return 0;
    loadavg_ = *std::move(fd);
  }
  const auto text = pread_record(loadavg_.get(), buffer);
  if (!text) return 0;
  const std::string_view line = trim(*text);
  return parse_u64(line.substr(line.rfind(' ') + 1)).value_or(0);
}

Result<void> TasksReader::read_states(std::string& buffer, Counted& counted) {
  if (counted.threads.empty()) return {};
  UMWELT_CHECK(open_proc());
  const std::size_t count = counted.threads.size();
  const std::size_t sampled = std::min(count, kMaxThreads);
  std::uint64_t running = 0, uninterruptible = 0;
  for (std::size_t i = 0; i < sampled; ++i) {
    const std::string id = std::to_string(counted.threads[i * count / sampled]);
    // Not /proc/TID/stat, which adds up the times of all threads of the process.
    auto fd = open_at(proc_.get(), id + "/task/" + id + "/stat", O_RDONLY);
    if (!fd) continue;  // it has ended
    const auto text = pread_record(fd->get(), buffer);
    if (!text) continue;
    const char state = UMWELT_TRY(parse_task_state(*text));
    running += state == 'R';
    uninterruptible += state == 'D';
  }
  counted.tasks.running += mul_div(running, count, sampled);
  counted.tasks.uninterruptible += mul_div(uninterruptible, count, sampled);
  return {};
}

Result<Tasks> TasksReader::read(std::string& buffer) {
  Counted counted;
  counted.last_pid = read_last_pid(buffer);
  if (const auto text = UMWELT_TRY(pids_current_.read(buffer))) {
    const auto total = parse_u64(trim(*text));
    if (!total) return fail(EINVAL, "parse pids.current");
    counted.tasks.total = *total;
    counted.total_known = true;
  }
  UMWELT_CHECK(own_->count(directory_->fd(), buffer, counted));
  if (has_children(directory_->fd())) UMWELT_CHECK(count_below(counted));
  UMWELT_CHECK(read_states(buffer, counted));
  // In a removed cgroup there seems to be no task.
  UMWELT_CHECK(directory_->check_alive(buffer));
  return counted.tasks;
}

}  // namespace umwelt::cgroup
