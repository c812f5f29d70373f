// SPDX-License-Identifier: Apache-2.0
// The store on each host filesystem: names, admission, exclusive and shared use, copies, crashes.
#include "vdisk/store.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <random>
#include <thread>

#include "base/file.h"
#include "host.h"
#include "vdisk/explain.h"
#include "vdisk/ext4.h"
#include "vdisk/image_file.h"
#include "vdisk/io_limits.h"
#include "vdisk/tool.h"

namespace umwelt::vdisk {
namespace {

using test::idle;
using test::shell;
using test::soon;
using test::wish;
using test::write_kept;

constexpr std::uint64_t kMiB = 1ULL << 20, kGiB = 1ULL << 30;

std::vector<std::string> names(const Store& store) {
  std::vector<std::string> result;
  const auto entries = store.list();
  for (const Entry& e : *entries) result.push_back(e.name);
  return result;
}

class StoreTest : public test::OnEachHost {};
UMWELT_ON_EACH_HOST(StoreTest);

TEST_P(StoreTest, CreateListRemove) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB), "b"));
  ASSERT_TRUE(store.create(wish(64 * kMiB + 1, Kind::kVolume), "volume:a"));
  EXPECT_EQ(names(store), (std::vector<std::string>{"b", "volume:a"}));
  const auto entry = store.find("volume:a");
  ASSERT_TRUE(entry && entry->record);
  EXPECT_EQ(entry->record->capacity_bytes, 64 * kMiB + 4096);
  EXPECT_EQ(entry->record->kind, Kind::kVolume);
  EXPECT_FALSE(entry->in_use);
  EXPECT_EQ(store.create(wish(64 * kMiB), "b").error().code, EEXIST);
  EXPECT_TRUE(store.remove("b"));
  EXPECT_EQ(store.remove("b").error().code, ENOENT);
  EXPECT_EQ(names(store), std::vector<std::string>{"volume:a"});
}

TEST_P(StoreTest, BadWishesLeaveNothing) {
  const Store store = open();
  for (const std::uint64_t bytes :
       {std::uint64_t{0}, std::uint64_t{4096}, 31 * kMiB, ~std::uint64_t{0}}) {
    const auto made = store.create(wish(bytes), "a");
    ASSERT_FALSE(made);
    EXPECT_NE(made.error().text.find("capacity"), std::string::npos) << made.error().text;
  }
  for (const char* name : {"", "..", "a/b", "../x", "-a"})
    EXPECT_EQ(store.create(wish(64 * kMiB), name).error().code, 0) << name;
  EXPECT_TRUE(names(store).empty());
}

TEST_P(StoreTest, UnusableFilesAreNoVdisks) {
  const Store store = open();
  const std::string directory = host->path() + "/vdisks/";
  ASSERT_EQ(shell("mkdir " + directory + "dir.img; ln -s /dev/null " + directory +
                  "link.img; "
                  "ln -s loop.img " +
                  directory + "loop.img; mkfifo " + directory +
                  "fifo.img; "
                  "mknod " +
                  directory + "dev.img c 1 3; echo junk > " + directory + "junk.img"),
            0);
  for (const char* name : {"dir", "link", "loop", "fifo", "dev"}) {
    EXPECT_FALSE(store.attach(name)) << name;
    EXPECT_FALSE(store.remove(name)) << name;
  }
  const auto attached = store.attach("junk");
  ASSERT_FALSE(attached);
  EXPECT_EQ(attached.error().code, EUCLEAN);
  EXPECT_EQ(names(store), std::vector<std::string>{"junk"});
  EXPECT_FALSE(store.find("junk")->record);
}

TEST_P(StoreTest, DamageIsFoundAndRepaired) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(300 * kMiB), "a"));
  write_kept(store, "a");
  const std::string path = host->path() + "/vdisks/a.img";
  // The superblock with its magic number; there is a backup from 128 MiB on.
  ASSERT_EQ(shell("dd if=/dev/zero of=" + path + " bs=1 seek=1024 count=512 conv=notrunc"), 0);
  const auto damaged = store.attach("a");
  ASSERT_FALSE(damaged);
  EXPECT_EQ(damaged.error().code, EUCLEAN) << damaged.error().message();
  {
    const auto file = store.lock("a");
    ASSERT_TRUE(file);
    const auto report = check(file->get(), Effort::kEverything);
    ASSERT_TRUE(report) << report.error().message();
    EXPECT_EQ(report->health, Health::kRepaired) << report->text;
  }
  const auto disk = store.attach("a");
  ASSERT_TRUE(disk) << disk.error().message();
  EXPECT_EQ(*read_file(path_of(disk->mount()) + "/upper/f"), "kept\n");
}

TEST_P(StoreTest, CutOffFileIsRefused) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB), "a"));
  ASSERT_EQ(shell("truncate -s 20M " + host->path() + "/vdisks/a.img"), 0);
  EXPECT_FALSE(store.attach("a"));
  EXPECT_FALSE(store.find("a")->in_use);
}

TEST_P(StoreTest, OnlyOneUserOfAnExclusiveOne) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB), "a"));
  {
    const auto disk = store.attach("a");
    ASSERT_TRUE(disk) << disk.error().message();
    EXPECT_TRUE(store.find("a")->in_use);
    EXPECT_GE(test::attached_loops(), 1u);
    EXPECT_EQ(store.attach("a").error().code, EBUSY);
    EXPECT_EQ(store.remove("a").error().code, EBUSY);
    EXPECT_EQ(store.lock("a").error().code, EBUSY);
    EXPECT_TRUE(store.join("a"));
    EXPECT_TRUE(store.usage("a")->attached);
  }
  EXPECT_TRUE(idle(store, "a"));
  EXPECT_EQ(store.join("a").error().code, ENOTCONN);
  EXPECT_TRUE(store.remove("a"));
}

TEST_P(StoreTest, SharedVolumeIsOneFilesystem) {
  const Store store = open();
  Record record = wish(64 * kMiB, Kind::kVolume);
  record.shared = true;
  ASSERT_TRUE(store.create(record, "volume:v"));
  std::vector<Disk> users;
  std::atomic<unsigned> failures{0};
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      auto disk = store.attach("volume:v");
      const std::lock_guard lock(mutex);
      if (disk) {
        users.push_back(std::move(*disk));
      } else {
        ADD_FAILURE() << disk.error().message();
      }
    });
  for (std::thread& t : threads) t.join();
  ASSERT_EQ(users.size(), 8u);
  ASSERT_EQ(shell("echo all > " + path_of(users[0].mount()) + "/upper/f"), 0);
  for (const Disk& disk : users) EXPECT_EQ(*read_file(path_of(disk.mount()) + "/upper/f"), "all\n");
}

TEST_P(StoreTest, PublishedOnlyWhenAsked) {
  const Store store = open();
  {
    auto disk = store.make(wish(64 * kMiB));
    ASSERT_TRUE(disk) << disk.error().message();
    EXPECT_TRUE(names(store).empty());
    ASSERT_TRUE(store.publish(*disk, "a"));
    EXPECT_TRUE(store.find("a")->in_use);
    auto second = store.make(wish(64 * kMiB));
    EXPECT_EQ(store.publish(*second, "a").error().code, EEXIST);
  }
  EXPECT_TRUE(idle(store, "a"));
  EXPECT_EQ(names(store), std::vector<std::string>{"a"});
}

TEST_P(StoreTest, ReconcileRemovesWhatBelongsToNobody) {
  const Store store = open();
  Record loose = wish(64 * kMiB);
  loose.keep = false;
  ASSERT_TRUE(store.create(wish(64 * kMiB), "kept"));
  ASSERT_TRUE(store.create(loose, "loose"));
  auto running = store.make(loose);
  ASSERT_TRUE(running);
  ASSERT_TRUE(store.publish(*running, "running"));
  ASSERT_EQ(shell("echo > " + host->path() + "/vdisks/foreign.img"), 0);
  const auto reconciled = store.reconcile();
  ASSERT_TRUE(reconciled);
  EXPECT_EQ(reconciled->removed, std::vector<std::string>{"loose"});
  EXPECT_EQ(reconciled->unknown, std::vector<std::string>{"foreign"});
  EXPECT_EQ(names(store), (std::vector<std::string>{"foreign", "kept", "running"}));
}

TEST_P(StoreTest, SnapshotAndClone) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(128 * kMiB), "a"));
  const auto disk = store.attach("a");
  ASSERT_TRUE(disk);
  const std::string root = path_of(disk->mount()) + "/upper/";
  ASSERT_EQ(shell("head -c 20000000 /dev/urandom > " + root + "f; sync -f " + root), 0);
  ASSERT_TRUE(store.copy("a", "snap", true, {}));  // in use
  ASSERT_EQ(shell("rm " + root + "f; echo after > " + root + "g; sync -f " + root), 0);
  EXPECT_EQ(store.attach("snap").error().code, 0);      // stays as it is
  ASSERT_TRUE(store.copy("snap", "again", false, {}));  // not in use
  const auto again = store.attach("again");
  ASSERT_TRUE(again) << again.error().message();
  struct stat status {};
  EXPECT_EQ(::stat((path_of(again->mount()) + "/upper/f").c_str(), &status), 0);
  EXPECT_EQ(status.st_size, 20000000);
  EXPECT_NE(::stat((path_of(again->mount()) + "/upper/g").c_str(), &status), 0);
  EXPECT_EQ(store.find("snap")->record->snapshot_of, "a");
  EXPECT_EQ(store.find("again")->record->snapshot_of, "");
  EXPECT_NE(store.find("again")->record->id, store.find("a")->record->id);
  const auto file = store.lock("snap");
  ASSERT_TRUE(file);
  EXPECT_EQ(check(file->get(), Effort::kLook)->health, Health::kClean);
  const auto not_begun = [](std::uint64_t, std::uint64_t) { ADD_FAILURE(); };
  EXPECT_EQ(store.copy("a", "again", false, not_begun).error().code, EEXIST);
  // A full host is no reason for either to lose its journal.
  for (const char* name : {"snap.img", "again.img"}) {
    const auto copy = open_at(store.directory(), name, O_RDONLY);
    ASSERT_TRUE(copy);
    const auto superblock = read_superblock(copy->get());
    ASSERT_TRUE(superblock);
    std::uint64_t journal = 0, wanted = 19'000'000;  // f
    for (const Extent& e : superblock->journal) journal += e.size;
    EXPECT_EQ(journal, superblock->journal_bytes);
    const auto metadata = read_metadata_blocks(copy->get(), *superblock);
    ASSERT_TRUE(metadata);
    for (const Extent& e : *metadata) wanted += e.size;
    ASSERT_EQ(::fsync(copy->get()), 0);
    ASSERT_EQ(::fstat(copy->get(), &status), 0);
    EXPECT_GE(static_cast<std::uint64_t>(status.st_blocks) * 512, wanted) << name;
  }
}

TEST_P(StoreTest, ResizeOffline) {
  const Store store = open({.overcommit = std::nullopt, .size_bytes = 500 * kMiB});
  ASSERT_TRUE(store.create(wish(64 * kMiB), "a"));
  ASSERT_TRUE(store.resize("a", 200 * kMiB));
  EXPECT_EQ(store.find("a")->record->capacity_bytes, 200 * kMiB);
  const auto refused = store.resize("a", 501 * kMiB);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().text.find("the pool is full"), std::string::npos);
  EXPECT_EQ(store.find("a")->record->capacity_bytes, 200 * kMiB);
  const auto disk = store.attach("a");
  ASSERT_TRUE(disk);
  EXPECT_GT(usage(*disk)->usable_bytes, 180 * kMiB);
}

TEST_P(StoreTest, AdmissionUnderContention) {
  const Store store =
      open({.overcommit = std::nullopt, .size_bytes = 10 * 64 * kMiB, .low_water_bytes = 0});
  std::atomic<unsigned> made{0}, refused{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&, i] {
      for (int j = 0; j < 3; ++j) {
        const auto result =
            store.create(wish(64 * kMiB), std::to_string(i) + "-" + std::to_string(j));
        result ? ++made : ++refused;
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(made, 10u);
  EXPECT_EQ(refused, 14u);
  EXPECT_EQ(store.sums()->promised_bytes, 640 * kMiB);
}

TEST_P(StoreTest, ReadOnlyHostIsSaidSo) {
  if (GetParam() == std::string("root")) GTEST_SKIP() << "needs ext4: / stays writable";
  const Store store = open();
  ASSERT_EQ(::mount(nullptr, host->path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
  const auto made = store.create(wish(64 * kMiB), "a");
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, EROFS) << made.error().message();
  ASSERT_EQ(::mount(nullptr, host->path().c_str(), nullptr, MS_REMOUNT, nullptr), 0);
}

TEST_P(StoreTest, WhoOnlyLooksIsInNobodysWay) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB), "a"));
  for (int i = 0; i < 5; ++i) {
    auto container = store.attach("a");
    ASSERT_TRUE(container) << container.error().message();
    auto looking = store.join("a");
    ASSERT_TRUE(looking);
    std::thread leaves([&] {
      ::usleep(200000);
      const Disk gone = std::move(*looking);
    });
    { const Disk gone = std::move(*container); }
    EXPECT_TRUE(store.attach("a"));
    leaves.join();
  }
  // Also where somebody looks at any time.
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i)
    readers.emplace_back([&] {
      while (!stop) (void)store.usage("a");
    });
  for (int i = 0; i < 20; ++i) {
    const auto disk = store.attach("a");
    EXPECT_TRUE(disk) << i;
    ::usleep(20000);
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  const auto disk = store.attach("a");
  ASSERT_TRUE(disk);
  EXPECT_EQ(store.attach("a").error().code, EBUSY);
  EXPECT_TRUE(store.usage("a")->attached);
}

TEST_P(StoreTest, NobodyNewLooksWhileAStartWaits) {
  const Store store = open();
  ASSERT_TRUE(store.create(wish(64 * kMiB), "a"));
  auto container = store.attach("a");
  ASSERT_TRUE(container) << container.error().message();
  auto looking = store.look("a");
  ASSERT_TRUE(looking) << looking.error().message();
  { const Disk gone = std::move(*container); }
  std::thread start([&] {
    const auto next = store.attach("a");
    EXPECT_TRUE(next) << next.error().message();
  });
  EXPECT_TRUE(soon([&] {
    const auto another = store.look("a");
    return !another && another.error().code == EBUSY;
  }));
  { const Disk gone = std::move(*looking); }
  start.join();
}

TEST_P(StoreTest, AProgramThatIsMissingIsNamedWithItsPackage) {
  ASSERT_TRUE(open().create(wish(64 * kMiB), "a"));
  const auto store =
      Store::open(host->path() + "/vdisks", test::make_directory("no-templates"), {});
  ASSERT_TRUE(store);
  const auto hidden = [](const std::string& name, const std::function<Result<void>()>& work) {
    const auto tool = find_tool(name);
    if (!tool || shell("mount --bind /dev/null " + *tool) != 0) return std::string("not hidden");
    const auto done = work();
    EXPECT_EQ(shell("umount " + *tool), 0);
    return done ? std::string("done") : explain(done.error(), "vdisk a").message();
  };
  EXPECT_EQ(hidden("mkfs.ext4", [&] { return store->create(wish(64 * kMiB), "b"); }),
            "mkfs.ext4 is missing: apt-get install e2fsprogs");
  EXPECT_EQ(hidden("resize2fs", [&] { return store->resize("a", 128 * kMiB); }),
            "resize2fs is missing: apt-get install e2fsprogs");
  const auto file = store->lock("a");
  ASSERT_TRUE(file);
  EXPECT_EQ(hidden("e2fsck",
                   [&]() -> Result<void> {
                     UMWELT_TRY(check(file->get(), Effort::kLook));
                     return {};
                   }),
            "e2fsck is missing: apt-get install e2fsprogs");
}

// SIGKILL at any moment of create, attach and remove, with 4 workers: nothing stays that belongs to
// nobody, and what was said to exist opens cleanly.
TEST_P(StoreTest, KilledAtAnyMoment) {
  const Store store = open();
  std::mt19937 random(7);
  const unsigned rounds = GetParam() == std::string("root") ? 50 : 15;
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_TRUE(store.create(wish(64 * kMiB), "first") && store.remove("first"));
  const auto once_us =
      static_cast<useconds_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                  std::chrono::steady_clock::now() - begin)
                                  .count());
  int said[2];
  ASSERT_EQ(::pipe(said), 0);
  for (unsigned round = 0; round < rounds; ++round) {
    std::vector<pid_t> workers;
    for (int worker = 0; worker < 4; ++worker) {
      const pid_t pid = ::fork();
      if (pid == 0) {
        for (unsigned i = 0;; ++i) {
          const std::string name = std::to_string(worker) + "." + std::to_string(i % 3);
          Record record = wish(64 * kMiB);
          record.keep = i % 2 == 0;
          (void)!store.remove(name);
          auto disk = store.make(record);
          if (disk && store.publish(*disk, name) && record.keep) {
            const std::string line = name + "\n";
            (void)!::write(said[1], line.data(), line.size());
          }
        }
      }
      workers.push_back(pid);
    }
    ::usleep(std::uniform_int_distribution<useconds_t>(1000, 20000 + 8 * once_us)(random));
    for (const pid_t pid : workers) ::kill(pid, SIGKILL);
    for (const pid_t pid : workers) ::waitpid(pid, nullptr, 0);
  }
  EXPECT_TRUE(soon([&] {
    const auto entries = store.list();
    return std::none_of(entries->begin(), entries->end(), [](const Entry& e) { return e.in_use; });
  }));
  ASSERT_TRUE(store.reconcile());
  const auto entries = store.list();
  for (const Entry& entry : *entries) {
    ASSERT_TRUE(entry.record) << entry.name;
    EXPECT_TRUE(entry.record->keep);
    const auto file = store.lock(entry.name);
    ASSERT_TRUE(file);
    EXPECT_EQ(check(file->get(), Effort::kLook)->health, Health::kClean) << entry.name;
  }
  EXPECT_TRUE(soon([] { return test::attached_loops() == 0; }));
  ::close(said[1]);
  std::string buffer(1 << 20, '\0');
  EXPECT_GT(::read(said[0], buffer.data(), buffer.size()), 0) << "no worker ever succeeded";
  ::close(said[0]);
}

}  // namespace
}  // namespace umwelt::vdisk
