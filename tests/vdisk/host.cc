// SPDX-License-Identifier: Apache-2.0
#include "host.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "vdisk/loop.h"
#include "vdisk/mount_api.h"
#include "vdisk/tool.h"

namespace umwelt::vdisk::test {
namespace {

namespace fs = std::filesystem;

constexpr char kPrefix[] = "umwelt-vdisk-test.";

// Directories of runs that were killed: their lock is free. One without a lock may be another run's
// that has just begun.
void remove_leftovers() {
  for (const auto& entry : fs::directory_iterator(fs::temp_directory_path())) {
    if (!entry.path().filename().string().starts_with(kPrefix)) continue;
    const UniqueFd lock(::open((entry.path() / "lock").c_str(), O_RDWR | O_CLOEXEC));
    std::error_code ignored;
    if (lock && ::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) fs::remove_all(entry.path(), ignored);
  }
}

class Environment : public testing::Environment {
 public:
  void SetUp() override {
    if (::geteuid() != 0) return;
    remove_leftovers();
    std::string path = fs::temp_directory_path() / (std::string(kPrefix) + "XXXXXX");
    ASSERT_NE(::mkdtemp(path.data()), nullptr);
    directory = path;
    lock_ = UniqueFd(::open((path + "/lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    ASSERT_EQ(::flock(lock_.get(), LOCK_EX), 0);
  }
  void TearDown() override {
    std::error_code ignored;
    if (!directory.empty()) fs::remove_all(directory, ignored);
  }
  static inline std::string directory;

 private:
  UniqueFd lock_;
};

}  // namespace

const std::string& scratch_directory() { return Environment::directory; }

std::string make_directory(const std::string& name) {
  const std::string path = scratch_directory() + "/" + name;
  fs::remove_all(path);
  fs::create_directories(path);
  return path;
}

int shell(const std::string& command, std::string* output) {
  FILE* pipe = ::popen(("(" + command + ") 2>&1").c_str(), "re");
  if (pipe == nullptr) return -1;
  std::string text;
  char buffer[4096];
  while (const std::size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, n);
  const int status = ::pclose(pipe);
  if (output != nullptr) *output = text;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::unique_ptr<HostFilesystem> HostFilesystem::make(const std::string& type, std::uint64_t bytes) {
  static unsigned counter = 0;
  auto host = std::make_unique<HostFilesystem>();
  host->path_ = scratch_directory() + "/host" + std::to_string(counter++);
  fs::create_directories(host->path_);
  if (type != "root") {
    UniqueFd mount;
    const auto context = FsContext::open(type);
    if (!context) return nullptr;
    if (type == "tmpfs") {
      mount = std::move(*FsContext::open(type)->mount(0));
    } else {
      host->backing_ = host->path_ + ".backing";
      const std::string quiet = type == "ext4"  ? "-q -F"
                                : type == "xfs" ? "-q -f -s size=4096"
                                                : "-q -f -m single";
      if (shell("truncate -s " + std::to_string(bytes) + " " + host->backing_) != 0 ||
          shell("mkfs." + type + " " + quiet + " " + host->backing_) != 0)
        return nullptr;
      const UniqueFd file(::open(host->backing_.c_str(), O_RDWR | O_CLOEXEC));
      auto loop = Loop::attach(file.get(), {.name = "umwelt-test-host"});
      EXPECT_TRUE(loop.has_value()) << loop.error().message();
      auto filesystem = FsContext::open(type);
      EXPECT_TRUE(filesystem->set_string("source", loop->path()));
      auto mounted = filesystem->mount(0);
      EXPECT_TRUE(mounted.has_value()) << mounted.error().message();
      mount = std::move(*mounted);
    }
    EXPECT_TRUE(attach_mount(mount.get(), AT_FDCWD, host->path_));
    host->mounted_ = true;
  }
  host->fd_ = UniqueFd(::open(host->path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return host;
}

HostFilesystem::~HostFilesystem() {
  fd_.reset();
  std::error_code ignored;
  if (mounted_) {
    // Who tidies up after a killed process ends a moment after its last file is gone.
    EXPECT_TRUE(soon([&] { return ::umount2(path_.c_str(), 0) == 0; }))
        << path_ << ": " << std::strerror(errno);
  }
  fs::remove_all(path_, ignored);
  if (!backing_.empty()) fs::remove(backing_, ignored);
}

Record wish(std::uint64_t bytes, Kind kind) {
  Record r;
  r.kind = kind;
  r.capacity_bytes = bytes;
  return r;
}

Store open_store(const HostFilesystem& host, const Policy& policy) {
  auto store = Store::open(host.path() + "/vdisks", scratch_directory() + "/templates", policy);
  EXPECT_TRUE(store) << store.error().message();
  return std::move(*store);
}

bool soon(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  for (;;) {
    const bool late = std::chrono::steady_clock::now() > deadline;
    if (condition()) return true;
    if (late) return false;
    ::usleep(20000);
  }
}

bool idle(const Store& store, const std::string& name) {
  return soon([&] { return !store.find(name)->in_use; });
}

void write_kept(const Store& store, const std::string& name) {
  {
    const auto disk = store.attach(name);
    ASSERT_TRUE(disk) << disk.error().message();
    ASSERT_EQ(shell("echo kept > " + path_of(disk->mount()) + "/upper/f"), 0);
  }
  ASSERT_TRUE(idle(store, name));
}

unsigned attached_loops() {
  unsigned count = 0;
  for (const auto& entry : fs::directory_iterator("/sys/block")) {
    const auto backing = read_file((entry.path() / "loop/backing_file").string());
    count += backing && backing->starts_with(scratch_directory() + "/") &&
             backing->find("/vdisks/") != std::string::npos;
  }
  return count;
}

}  // namespace umwelt::vdisk::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (::geteuid() != 0) {
    std::puts("needs root: vdisks are made by root");
    return 77;
  }
  if (::unshare(CLONE_NEWNS) != 0 ||
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    std::perror("a mount namespace of its own");
    return 1;
  }
  // A shell's job in the background ignores it, and so would whoever a test interrupts.
  ::signal(SIGINT, SIG_DFL);
  testing::AddGlobalTestEnvironment(new umwelt::vdisk::test::Environment);
  return RUN_ALL_TESTS();
}
