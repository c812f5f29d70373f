// SPDX-License-Identifier: Apache-2.0
// What is killed, fails or is started again halfway: no container hangs, no lock is lost, no
// content is cut off.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <string>

#include "base/file.h"
#include "host.h"
#include "vdisk/ext4.h"
#include "vdisk/image_file.h"
#include "vdisk/overlay.h"
#include "vdisk/store.h"
#include "vdisk/tool.h"
#include "vdisk/tree_writer.h"

namespace umwelt::vdisk {
namespace {

using test::idle;
using test::shell;
using test::soon;

constexpr std::uint64_t kMiB = 1ULL << 20;

Record wish(std::uint64_t bytes, Class c = Class::kThin) {
  Record r;
  r.cls = c;
  r.capacity_bytes = bytes;
  return r;
}

// A process that does `work` and then waits for its end.
pid_t start(const std::function<void()>& work) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  work();
  for (;;) ::pause();
}

pid_t start_writing(const std::string& path) {
  return start([&] {
    const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    ::_exit(file && ::write(file.get(), "x", 1) == 1 ? 0 : 1);
  });
}

// Whether it comes to wait for what no signal ends, as a writer to a frozen filesystem does.
bool stands_still(pid_t pid) {
  const auto waits = [&] {
    const auto stat = read_file("/proc/" + std::to_string(pid) + "/stat");
    return stat && stat->find(") D ") != std::string::npos;
  };
  return soon([&] {
    if (!waits()) return false;
    ::usleep(100000);  // nor is it one access to the disk
    return waits();
  });
}

// Its exit code, -1 while it goes on.
int end_of(pid_t pid) {
  int status = -1;
  soon([&] { return ::waitpid(pid, &status, WNOHANG) == pid; });
  return status;
}

void kill_and_wait(pid_t pid) {
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

std::uint64_t length_of(int file) {
  struct stat status {};
  EXPECT_EQ(::fstat(file, &status), 0);
  return static_cast<std::uint64_t>(status.st_size);
}

class InterruptedTest : public test::OnEachHost {
 protected:
  static std::string upper(const Disk& disk) { return path_of(disk.mount()) + "/upper"; }
  // Of the file "f" in it.
  static std::string sum_of_file(const Disk& disk) {
    std::string sum;
    EXPECT_EQ(shell("sha256sum < " + upper(disk) + "/f", &sum), 0);
    return sum;
  }
  static std::string sum_of_file(const Store& store, const std::string& name) {
    const auto disk = store.attach(name);
    EXPECT_TRUE(disk) << disk.error().message();
    return disk ? sum_of_file(*disk) : std::string();
  }
};
UMWELT_ON_EACH_HOST(InterruptedTest);

TEST_P(InterruptedTest, AFrozenOneIsThawedWhenItsCopyIsKilled) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB), "a"));
  const auto disk = store.attach("a");
  ASSERT_TRUE(disk) << disk.error().message();
  int ready[2];
  ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
  const pid_t copier = start([&] {
    const auto frozen = Frozen::freeze(*disk);
    const char ok = frozen ? 'y' : 'n';
    (void)!::write(ready[1], &ok, 1);
    for (;;) ::pause();
  });
  char ok = 0;
  ASSERT_EQ(::read(ready[0], &ok, 1), 1);
  ASSERT_EQ(ok, 'y');
  const auto second = Frozen::freeze(*disk);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, 0) << second.error().message();
  const pid_t writer = start_writing(upper(*disk) + "/f");
  EXPECT_TRUE(stands_still(writer));
  kill_and_wait(copier);
  EXPECT_EQ(end_of(writer), 0);
}

// Somebody kills the process that would have thawed it.
TEST_P(InterruptedTest, AFrozenOneIsThawedWhenItsKeeperIsKilled) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB), "a"));
  const auto disk = store.attach("a");
  ASSERT_TRUE(disk) << disk.error().message();
  const auto kill_keeper = [] {
    std::string keeper;
    EXPECT_EQ(shell("pgrep -P " + std::to_string(::getpid()) + " -x vdisk_tests", &keeper), 0);
    ::kill(std::stoi(keeper), SIGKILL);
  };
  auto frozen = Frozen::freeze(*disk);
  ASSERT_TRUE(frozen) << frozen.error().message();
  kill_keeper();
  const auto thawed = frozen->thaw();
  EXPECT_TRUE(thawed) << thawed.error().message();
  EXPECT_EQ(shell("timeout 10 sh -c 'echo x > " + upper(*disk) + "/f'"), 0);

  auto again = Frozen::freeze(*disk);
  ASSERT_TRUE(again);
  ASSERT_EQ(shell("fsfreeze -u " + path_of(disk->mount())), 0);
  EXPECT_FALSE(again->thaw());  // the copy may have changed while it was made
}

// By Ctrl-Z, or a terminal that shows nothing more.
TEST_P(InterruptedTest, AFrozenOneGoesOnWhenItsCopyDoesNot) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB), "a"));
  const auto disk = store.attach("a");
  ASSERT_TRUE(disk) << disk.error().message();
  int ready[2];
  ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
  const pid_t copier = start([&] {
    auto frozen = Frozen::freeze(*disk);
    if (!frozen || ::write(ready[1], "y", 1) != 1) ::_exit(1);
    for (int i = 0; i < 7; ++i) {
      frozen->note_progress();
      ::usleep(1000000);
    }
    ::raise(SIGSTOP);
    const auto thawed = frozen->thaw();
    ::_exit(!thawed && thawed.error().code == ETIMEDOUT ? 0 : 1);
  });
  int status = 0;
  char ok = 0;
  ASSERT_EQ(::read(ready[0], &ok, 1), 1);
  const pid_t writer = start_writing(upper(*disk) + "/f");
  EXPECT_TRUE(stands_still(writer));
  ASSERT_EQ(::waitpid(copier, &status, WUNTRACED), copier);
  ASSERT_TRUE(WIFSTOPPED(status));
  EXPECT_EQ(::waitpid(writer, &status, WNOHANG), 0);  // so long it did stand still
  EXPECT_EQ(end_of(writer), 0);
  ::kill(copier, SIGCONT);
  ASSERT_EQ(::waitpid(copier, &status, 0), copier);
  EXPECT_EQ(status, 0);
}

TEST_P(InterruptedTest, AFrozenOneIsFoundWhenAllOfItsCopyIsKilled) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB), "a"));
  auto disk = store.attach("a");
  ASSERT_TRUE(disk) << disk.error().message();
  EXPECT_TRUE(store.thaw_forgotten()->empty());
  const pid_t copier = ::fork();
  if (copier == 0) {
    (void)!store.copy("a", "b", false, [&](std::uint64_t, std::uint64_t) {
      if (!store.thaw_forgotten()->empty()) ::_exit(1);
      std::string keeper;
      shell("pgrep -P " + std::to_string(::getpid()) + " -x vdisk_tests", &keeper);
      ::kill(std::stoi(keeper), SIGKILL);
      ::raise(SIGKILL);
    });
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(copier, &status, 0), copier);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
    GTEST_SKIP() << "needs a copy that takes time: this one is a reflink";
  ASSERT_TRUE(WIFSIGNALED(status)) << status;
  const pid_t writer = start_writing(upper(*disk) + "/f");
  EXPECT_TRUE(stands_still(writer));
  const auto thawed = store.thaw_forgotten();
  ASSERT_TRUE(thawed) << thawed.error().message();
  EXPECT_EQ(*thawed, std::vector<std::string>{"a"});
  EXPECT_EQ(end_of(writer), 0);
  EXPECT_TRUE(store.thaw_forgotten()->empty());
  EXPECT_TRUE(store.copy("a", "b", false, {}));
  EXPECT_NE(shell("ls -A " + host->path() + "/vdisks | grep standstill"), 0);
}

TEST_P(InterruptedTest, TheLockLivesAsLongAsTheProgramThatChangesTheFile) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB), "a"));
  const std::string fifo = host->path() + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  const pid_t changer = start([&] {
    const auto file = store.lock("a");
    (void)run_tool({"cat", fifo}, {}, {}, file->get());
  });
  UniqueFd writing;  // it can be opened when the program reads
  ASSERT_TRUE(soon([&] {
    writing = UniqueFd(::open(fifo.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    return static_cast<bool>(writing);
  }));
  kill_and_wait(changer);
  const auto refused = store.lock("a");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, EBUSY);
  writing.reset();
  EXPECT_TRUE(soon([&] { return store.lock("a").has_value(); }));
}

TEST_P(InterruptedTest, TheFileCountsWhereTheRecordWasNotWritten) {
  const Store store = open({.overcommit = std::nullopt, .size_bytes = 2048 * kMiB});
  ASSERT_TRUE(store.create(wish(64 * kMiB), "a"));
  ASSERT_TRUE(store.resize("a", 400 * kMiB));
  // As after a kill between resize2fs and the record.
  ASSERT_TRUE(store.update("a", [](Record& r) -> Result<void> {
    r.capacity_bytes = 64 * kMiB;
    return {};
  }));
  std::string sum;
  {
    const auto disk = store.attach("a");
    ASSERT_TRUE(disk) << disk.error().message();
    ASSERT_EQ(shell("head -c 150000000 /dev/urandom > " + upper(*disk) + "/f"), 0);
    sum = sum_of_file(*disk);
  }
  ASSERT_TRUE(idle(store, "a"));
  // More than the record has, less than the content.
  EXPECT_FALSE(store.resize("a", 100 * kMiB));
  EXPECT_EQ(sum_of_file(store, "a"), sum);
  ASSERT_TRUE(idle(store, "a"));
  const auto smaller = store.resize("a", 300 * kMiB);
  ASSERT_TRUE(smaller) << smaller.error().message();
  EXPECT_EQ(store.find("a")->record->capacity_bytes, 300 * kMiB);
  EXPECT_EQ(sum_of_file(store, "a"), sum);
}

TEST_P(InterruptedTest, ASnapshotKeepsItsSize) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB), "a"));
  ASSERT_TRUE(store.copy("a", "s", true, {}));
  const auto refused = store.resize("s", 128 * kMiB);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, 0);
  EXPECT_EQ(length_of(store.lock("s")->get()), 64 * kMiB);
}

TEST_P(InterruptedTest, NobodyWritesToWhatIsBeingCopied) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB), "a"));
  unsigned steps = 0, refused = 0, shared = 0;
  const auto copied = store.copy("a", "b", false, [&](std::uint64_t, std::uint64_t) {
    if (steps++ != 0) return;
    const auto attached = store.attach("a");
    refused += !attached && attached.error().code == ENOTCONN;
    refused += !attached && attached.error().code == EBUSY;
    shared += store.copy("a", "c", false, {}).has_value();  // but may copy it, too
  });
  ASSERT_TRUE(copied) << copied.error().message();
  if (steps == 0) GTEST_SKIP() << "needs a copy that takes time: this one is a reflink";
  EXPECT_EQ(refused, 1U);
  EXPECT_EQ(shared, 1U);
}

TEST_P(InterruptedTest, AGuaranteedOneGrowsByWhatThereIsOrNotAtAll) {
  if (GetParam() == std::string("root")) GTEST_SKIP() << "needs ext4: / would be full for a moment";
  const Store store = open({.overcommit = 1000.0});
  ASSERT_TRUE(store.create(wish(64 * kMiB, Class::kGuaranteed), "a"));
  struct statvfs before {
  }, after{};
  ASSERT_EQ(::fstatvfs(host->fd(), &before), 0);
  const std::uint64_t more = (before.f_bavail * before.f_frsize / kMiB + 1024) * kMiB;
  EXPECT_FALSE(store.resize("a", more));  // by the admission
  {
    const auto file = store.lock("a");
    ASSERT_TRUE(file);
    EXPECT_EQ(length_of(file->get()), 64 * kMiB);
    const auto refused = lengthen(file->get(), Class::kGuaranteed, 64 * kMiB, more);
    ASSERT_FALSE(refused);  // by the filesystem
    EXPECT_EQ(length_of(file->get()), 64 * kMiB);
  }
  ASSERT_EQ(::fstatvfs(host->fd(), &after), 0);
  EXPECT_GT(after.f_bavail * after.f_frsize + 64 * kMiB, before.f_bavail * before.f_frsize);
  ASSERT_TRUE(store.resize("a", 96 * kMiB));
  struct stat status {};
  ASSERT_EQ(::fstat(store.lock("a")->get(), &status), 0);
  EXPECT_GE(status.st_blocks * 512, 96 * static_cast<std::int64_t>(kMiB));
}

TEST_P(InterruptedTest, AScratchOneIsEmptyAfterACrashAndOnlyThen) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB, Class::kScratch), "a"));
  const auto has_file = [&](const Disk& disk) {
    return shell("test -e " + upper(disk) + "/f") == 0;
  };
  {
    const auto disk = store.attach("a");
    ASSERT_TRUE(disk) << disk.error().message();
    ASSERT_EQ(shell("echo x > " + upper(*disk) + "/f"), 0);
  }
  ASSERT_TRUE(idle(store, "a"));
  {
    auto disk = store.attach("a");
    ASSERT_TRUE(disk) << disk.error().message();
    EXPECT_TRUE(has_file(*disk));
    disk->shut_down();
  }
  ASSERT_TRUE(idle(store, "a"));
  const auto disk = store.attach("a");
  ASSERT_TRUE(disk) << disk.error().message();
  EXPECT_FALSE(has_file(*disk));
  const std::string lower = test::make_directory("lower");
  const auto root = open_at(AT_FDCWD, lower, O_PATH | O_DIRECTORY);
  EXPECT_TRUE(mount_overlay(
      {.lowers = {root->get()}, .disk = disk->mount(), .is_volatile = true, .name = "test"}));
}

// With what a container may leave, and whatever is done before the next start.
TEST_P(InterruptedTest, AScratchOneIsEmptyAfterACrashInAnyCase) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB, Class::kScratch), "a"));
  const auto crash = [&] {
    auto disk = store.attach("a");
    ASSERT_TRUE(disk) << disk.error().message();
    // Deeper than this process may have descriptors.
    ASSERT_EQ(shell("cd " + upper(*disk) + " && mkdir -p $(printf 'd/%.0s' $(seq 1000))"), 0);
    disk->shut_down();
  };
  const auto is_empty = [&] {
    const auto disk = store.attach("a");
    EXPECT_TRUE(disk) << disk.error().message();
    return disk && shell("test -z \"$(ls -A " + upper(*disk) + ")\"") == 0;
  };
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few{256, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  crash();
  ASSERT_TRUE(idle(store, "a"));
  EXPECT_TRUE(is_empty());
  ::setrlimit(RLIMIT_NOFILE, &before);

  ASSERT_TRUE(idle(store, "a"));
  crash();
  ASSERT_TRUE(idle(store, "a"));
  const auto grown = store.resize("a", 96 * kMiB);
  ASSERT_TRUE(grown) << grown.error().message();
  EXPECT_TRUE(is_empty());

  ASSERT_TRUE(idle(store, "a"));
  crash();
  ASSERT_TRUE(idle(store, "a"));
  {
    // As after a kill while it was made empty: the superblock is written last.
    const auto file = store.lock("a");
    const std::string zeros(64 << 10, '\0');
    ASSERT_EQ(::pwrite(file->get(), zeros.data(), zeros.size(), 0), 64 << 10);
  }
  EXPECT_TRUE(is_empty());
  EXPECT_EQ(store.usage("a")->capacity_bytes, 96 * kMiB);
  ASSERT_TRUE(idle(store, "a"));
  EXPECT_EQ(check(store.lock("a")->get(), Effort::kLook)->health, Health::kClean);
}

TEST_P(InterruptedTest, ACopyOfAScratchOneInUseHasItsContent) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB, Class::kScratch), "a"));
  const auto disk = store.attach("a");
  ASSERT_TRUE(disk) << disk.error().message();
  ASSERT_EQ(shell("echo precious > " + upper(*disk) + "/f"), 0);
  const std::string unnamed = upper(*disk) + "/g";
  const UniqueFd file(::open(unnamed.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(file);
  ASSERT_EQ(::unlink(unnamed.c_str()), 0);
  const auto copied = store.copy("a", "b", false, {});
  ASSERT_TRUE(copied) << copied.error().message();
  EXPECT_EQ(check(store.lock("b")->get(), Effort::kLook)->health, Health::kClean);
  const auto copy = store.attach("b");
  ASSERT_TRUE(copy) << copy.error().message();
  EXPECT_EQ(*read_file(upper(*copy) + "/f"), "precious\n");
}

TEST_P(InterruptedTest, OneBecomesSmallerWhereThePoolIsFull) {
  ASSERT_TRUE(open().create(wish(256 * kMiB), "a"));
  const Store full = open({.overcommit = std::nullopt, .size_bytes = 128 * kMiB});
  EXPECT_FALSE(full.create(wish(64 * kMiB), "b"));
  EXPECT_FALSE(full.resize("a", 300 * kMiB));
  const auto smaller = full.resize("a", 64 * kMiB);
  EXPECT_TRUE(smaller) << smaller.error().message();
}

}  // namespace
}  // namespace umwelt::vdisk
