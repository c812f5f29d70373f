// SPDX-License-Identifier: Apache-2.0
#include "launch/filesystems.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"

namespace umwelt::launch {
namespace {

namespace fs = std::filesystem;

// In a mount namespace of its own; true when `root` then shows what it should.
bool hides(const fs::path& root, bool views) {
  const pid_t child = ::fork();
  if (child == 0) {
    const auto shown = [&](const char* path) { return fs::file_size(root / path) > 0; };
    const fs::path cpu = root / "sys/devices/system/cpu";
    bool right = ::unshare(CLONE_NEWNS) == 0 &&
                 ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    const auto directory = open_at(AT_FDCWD, root, O_PATH | O_DIRECTORY);
    right = right && directory && hide_paths(directory->get(), views).has_value() &&
            !fs::is_regular_file(root / "proc/keys") &&
            fs::is_regular_file(root / "proc/interrupts") == views &&
            fs::exists(cpu / "cpu1/online") && fs::exists(cpu / "cpuidle/driver");
    for (const char* name : {"cpu0", "cpu1", "cpu2"})
      right = right && fs::is_empty(cpu / name / "thermal_throttle") == !views;
    ::_exit(right && shown("proc/uptime") ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return status == 0;
}

TEST(Filesystems, WithoutViewsHeatIsHidden) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  char name[] = "/tmp/umwelt-filesystems-XXXXXX";
  const fs::path root = ::mkdtemp(name);
  const fs::path cpu = root / "sys/devices/system/cpu";
  const auto write = [](const fs::path& path) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << "7\n";
  };
  for (const char* file : {"keys", "interrupts", "uptime"}) write(root / "proc" / file);
  for (const char* one : {"cpu0", "cpu1", "cpu2"})
    write(cpu / one / "thermal_throttle/core_throttle_count");
  write(cpu / "cpu1/online");
  write(cpu / "cpuidle/driver");
  EXPECT_TRUE(hides(root, false));
  EXPECT_TRUE(hides(root, true));
  fs::remove_all(root);
}

}  // namespace
}  // namespace umwelt::launch
