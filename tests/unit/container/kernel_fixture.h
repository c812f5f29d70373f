// SPDX-License-Identifier: Apache-2.0
// Real cgroups and real processes for the tests of this folder.
#pragma once

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "base/file.h"
#include "base/unique_fd.h"
#include "cgroup/reader.h"
#include "container/container.h"
#include "host/reader.h"

namespace umwelt::container {

// A child process that runs `body` in new namespaces (`flags` of clone(2)) and then waits to be
// killed, which the destructor does. A body returns false when its set-up failed.
class Child {
 public:
  explicit Child(
      std::uint64_t flags = 0, const std::function<bool()>& body = [] { return true; }) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return;
    UniqueFd ready(ends[0]), report(ends[1]);
    pid_ = static_cast<pid_t>(::syscall(SYS_clone, flags | SIGCHLD, nullptr, nullptr, nullptr, 0));
    if (pid_ == 0) {
      if (body()) (void)!::write(report.get(), "", 1);
      for (;;) ::pause();
    }
    report.reset();
    char byte;
    ok_ = ::read(ready.get(), &byte, 1) == 1;
  }
  ~Child() { kill(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  bool ok() const { return ok_; }
  pid_t pid() const { return pid_; }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
  bool ok_ = false;
};

// Keeps a CPU busy until this process has used so much CPU time, however long that takes.
inline void burn_cpu(std::chrono::milliseconds time) {
  timespec used{};
  do {
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  } while (std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec) < time);
}

// A cgroup below /umwelt-test-container-PID in every hierarchy of this machine, removed at the end
// when nothing runs in it any more.
class TestCgroup {
 public:
  TestCgroup(const cgroup::Hierarchies& hierarchies, const std::string& name)
      : hierarchies_(hierarchies),
        path_("/umwelt-test-container-" + std::to_string(::getpid()) + name) {
    for (const auto& [controller, mount] : hierarchies_.v1) make(controller, mount);
    if (!hierarchies_.v2.empty()) make("", hierarchies_.v2);
  }
  ~TestCgroup() { remove(); }
  TestCgroup(const TestCgroup&) = delete;
  TestCgroup& operator=(const TestCgroup&) = delete;

  const std::string& path() const { return path_; }
  const cgroup::Paths& paths() const { return paths_; }

  // The directory that carries a controller.
  std::string directory(const std::string& controller) const {
    const auto mount = hierarchies_.v1.find(controller);
    return (mount == hierarchies_.v1.end() ? hierarchies_.v2 : mount->second) + path_;
  }
  void write(const std::string& controller, const std::string& file, const std::string& text) {
    const auto result = write_file_at(AT_FDCWD, directory(controller) + "/" + file, text);
    EXPECT_TRUE(result) << result.error().message();
  }
  bool v1(const std::string& controller) const { return hierarchies_.v1.contains(controller); }
  void set_memory_max(std::uint64_t bytes) {
    write("memory", v1("memory") ? "memory.limit_in_bytes" : "memory.max", std::to_string(bytes));
  }
  bool attach(pid_t pid) const {
    bool attached = true;
    for (const auto& [controller, path] : paths_)
      attached &=
          write_file_at(AT_FDCWD, directory(controller) + "/cgroup.procs", std::to_string(pid))
              .has_value();
    return attached;
  }
  void remove() {
    for (const auto& [controller, path] : paths_) {
      // A killed process leaves its cgroup a moment after it was waited for.
      for (int i = 0; i < 200 && ::rmdir(directory(controller).c_str()) != 0 && errno == EBUSY; ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    paths_.clear();
  }

 private:
  void make(const std::string& controller, const std::string& mount) {
    const std::string parent = std::filesystem::path(mount + path_).parent_path().string();
    if (controller.empty())
      for (const char* enabled : {"+memory", "+cpu", "+cpuset", "+pids"})
        (void)write_file_at(AT_FDCWD, parent + "/cgroup.subtree_control", enabled);
    if (::mkdir((mount + path_).c_str(), 0755) != 0 && errno != EEXIST) return;
    paths_[controller] = path_;
    if (controller != "cpuset") return;
    for (const char* file : {"/cpuset.cpus", "/cpuset.mems"})
      if (const auto text = read_file(parent + file))
        (void)write_file_at(AT_FDCWD, mount + path_ + file, *text);
  }

  cgroup::Hierarchies hierarchies_;
  std::string path_;
  cgroup::Paths paths_;
};

// Needs root and cgroup hierarchies that may be written to.
class KernelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    const auto hierarchies = cgroup::Hierarchies::read();
    ASSERT_TRUE(hierarchies) << hierarchies.error().message();
    hierarchies_ = *hierarchies;
    TestCgroup probe(hierarchies_, "-probe");
    if (probe.paths().empty()) GTEST_SKIP() << "needs writable cgroups";
    char name[] = "/tmp/umwelt-container-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  cgroup::Hierarchies hierarchies_;
  std::string folder_;
};

// With what the host shows, too.
class HostTest : public KernelTest {
 protected:
  void SetUp() override {
    KernelTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    auto host = host::Reader::open();
    ASSERT_TRUE(host) << host.error().message();
    host_ = std::move(*host);
  }
  Result<std::shared_ptr<Container>> open(Record record,
                                          std::uint64_t limits_age = Container::kUntilRefresh) {
    auto opened = UMWELT_TRY(Container::open_cgroup(record.cgroup_paths, hierarchies_, *host_));
    return Container::make(std::move(record), std::move(opened), host_, limits_age);
  }

  std::shared_ptr<host::Reader> host_;
};

// Polls until `condition` holds; how long it took, or nullopt after `limit`.
inline std::optional<std::chrono::milliseconds> wait_until(
    const std::function<bool()>& condition,
    std::chrono::milliseconds limit = std::chrono::seconds(30)) {
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() -
                                                                 start);
  };
  while (!condition()) {
    if (elapsed() > limit) return std::nullopt;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return elapsed();
}

}  // namespace umwelt::container
