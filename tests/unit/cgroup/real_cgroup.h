// SPDX-License-Identifier: Apache-2.0
// Cgroups made on the running kernel for one test: in every v1 hierarchy that the readers use, and
// in cgroup2 with every controller that its root hands down. Removed at the end.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/parse.h"
#include "cgroup/reader.h"

namespace umwelt::cgroup {

class RealCgroup {
 public:
  // `path` is below a directory of this process: "/a/b". "" in `error` when it worked.
  explicit RealCgroup(const std::string& path = "") {
    auto read = Hierarchies::read();
    if (!read) {
      error = read.error().message();
      return;
    }
    hierarchies = *std::move(read);
    path_ = "/umwelt-test-unit-" + std::to_string(::getpid()) + path;
    for (const char* controller : {"cpuset", "cpu", "cpuacct", "memory", "pids", "blkio"}) {
      const auto mount = hierarchies.v1.find(controller);
      if (mount == hierarchies.v1.end()) continue;
      paths[controller] = path_;
      make(mount->second, false);
    }
    if (!hierarchies.v2.empty()) {
      paths[""] = path_;
      make(hierarchies.v2, true);
      const auto controllers = read_file(hierarchies.v2 + path_ + "/cgroup.controllers");
      for (const char* controller : {"cpuset", "cpu", "memory", "pids"}) {
        if (v2(controller) &&
            (" " + controllers.value_or("")).find(" " + std::string(controller)) ==
                std::string::npos)
          error = std::string("no ") + controller + " controller is handed down";
      }
    }
  }
  RealCgroup(const RealCgroup&) = delete;
  RealCgroup& operator=(const RealCgroup&) = delete;
  ~RealCgroup() {
    for (const pid_t pid : children_) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
    remove();
  }

  // The deepest level first. A cgroup whose last task has just ended is busy for a moment.
  void remove() {
    while (!made_.empty()) {
      for (int attempt = 0; ::rmdir(made_.back().c_str()) != 0 && errno == EBUSY && attempt < 5000;
           ++attempt)
        ::usleep(2000);
      made_.pop_back();
    }
  }

  bool v2(const std::string& controller) const { return !hierarchies.v1.contains(controller); }

  // The directory of a controller, `level` levels up.
  std::string directory(const std::string& controller, unsigned level = 0) const {
    const auto mount = hierarchies.v1.find(controller);
    std::string path = path_;
    for (unsigned i = 0; i < level; ++i) path.resize(path.rfind('/'));
    return (mount == hierarchies.v1.end() ? hierarchies.v2 : mount->second) + path;
  }

  bool write(const std::string& controller, const std::string& file, const std::string& text,
             unsigned level = 0) const {
    return write_file_at(AT_FDCWD, directory(controller, level) + "/" + file, text).has_value();
  }

  // A child process in all of the cgroups that runs `body` until it ends.
  template <class Body>
  pid_t start(Body body) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      for (const auto& [controller, path] : paths)
        if (!write(controller, "cgroup.procs", "0")) ::_exit(99);
      body();
      ::_exit(0);
    }
    children_.push_back(pid);
    return pid;
  }
  int wait(pid_t pid) {
    std::erase(children_, pid);
    int status = -1;
    ::waitpid(pid, &status, 0);
    return status;
  }

  Hierarchies hierarchies;
  Paths paths;
  std::string error;

 private:
  void make(const std::string& mount, bool v2) {
    std::string parent = mount;
    std::string_view rest = path_;
    while (!rest.empty()) {
      const std::size_t end = rest.find('/', 1);
      if (v2 && parent != mount) enable_controllers(parent);
      const std::string directory = parent + std::string(rest.substr(0, end));
      if (::mkdir(directory.c_str(), 0755) == 0) {
        made_.push_back(directory);
      } else if (errno != EEXIST) {
        error = "mkdir " + directory + ": " + std::strerror(errno);
        return;
      }
      // A v1 cpuset takes no task before it has CPUs and memory nodes.
      for (const char* file : {"/cpuset.cpus", "/cpuset.mems"}) {
        const auto above = read_file(parent + file);
        if (!v2 && above && above->size() > 1)
          (void)write_file_at(AT_FDCWD, directory + file, *above);
      }
      parent = directory;
      rest = end == std::string_view::npos ? "" : rest.substr(end);
    }
  }

  static void enable_controllers(const std::string& directory) {
    const auto controllers = read_file(directory + "/cgroup.controllers");
    if (!controllers) return;
    std::string_view rest = trim(*controllers);
    for (std::string_view word = next_word(rest); !word.empty(); word = next_word(rest))
      (void)write_file_at(AT_FDCWD, directory + "/cgroup.subtree_control", "+" + std::string(word));
  }

  std::string path_;
  std::vector<std::string> made_;
  std::vector<pid_t> children_;
};

}  // namespace umwelt::cgroup

// Skips by name where the kernel or the permissions for it are lacking.
#define REQUIRE_REAL_CGROUP(cgroup) \
  if (!(cgroup).error.empty()) GTEST_SKIP() << "needs cgroups: " << (cgroup).error
