// SPDX-License-Identifier: Apache-2.0
// One vdisk on each host filesystem: what is in the file, what the kernel has attached and mounted.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <thread>

#include "base/file.h"
#include "host.h"
#include "vdisk/image_file.h"
#include "vdisk/mount_api.h"
#include "vdisk/overlay.h"
#include "vdisk/tool.h"
#include "vdisk/vdisk.h"

namespace umwelt::vdisk {
namespace {

using test::shell;
using test::soon;

constexpr char kOwner[] = "test";

Record record(Class c, Kind kind = Kind::kOverlay) {
  Record r;
  r.id = random_id();
  r.cls = c;
  r.kind = kind;
  return r;
}

Template template_of(std::uint64_t bytes, Class c = Class::kThin) {
  auto t = make_template(bytes, c);
  EXPECT_TRUE(t) << t.error().message();
  return std::move(*t);
}

std::uint64_t allocated(int file) {
  struct stat status {};
  EXPECT_EQ(::fstat(file, &status), 0);
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

std::string fd_path(int fd) { return path_of(fd); }

class DiskTest : public test::OnEachHost {
 protected:
  Disk make(std::uint64_t bytes, Class c = Class::kThin) {
    auto disk = Disk::make(host->fd(), template_of(bytes, c), record(c), kOwner);
    EXPECT_TRUE(disk) << disk.error().message();
    return std::move(*disk);
  }
};
UMWELT_ON_EACH_HOST(DiskTest);

TEST_P(DiskTest, TemplateIsACleanFilesystem) {
  for (const std::uint64_t bytes : {32ULL << 20, 300ULL << 20, 10ULL << 30, 100ULL << 30})
    for (const Class c : {Class::kThin, Class::kScratch}) {
      auto file = create_unnamed(host->fd(), bytes);
      if (!file && file.error().code == EFBIG) continue;
      ASSERT_TRUE(file) << file.error().message();
      const auto written = write_template(file->get(), template_of(bytes, c), c);
      if (!written && written.error().code == ENOSPC) continue;  // 100 GiB: 800 MiB of metadata
      ASSERT_TRUE(written) << written.error().message();
      const auto report = check(file->get(), Effort::kLook);
      ASSERT_TRUE(report) << report.error().message();
      EXPECT_EQ(report->health, Health::kClean) << bytes << "\n" << report->text;
    }
}

TEST_P(DiskTest, OnlyMetadataIsAllocated) {
  const Template t = template_of(1ULL << 30);
  auto file = create_unnamed(host->fd(), t.capacity_bytes);
  ASSERT_TRUE(file);
  ASSERT_TRUE(write_template(file->get(), t, Class::kThin));
  ::fsync(file->get());
  EXPECT_GE(allocated(file->get()), t.metadata_bytes());
  EXPECT_LE(allocated(file->get()), t.metadata_bytes() + (2 << 20));
  EXPECT_LE(t.metadata_bytes(), 32U << 20);
}

TEST_P(DiskTest, GuaranteedIsAllocatedAndStaysSo) {
  Disk disk = make(256 << 20, Class::kGuaranteed);
  EXPECT_GE(allocated(disk.file()), 256U << 20);
  const std::string file = fd_path(disk.mount()) + "/upper/f";
  ASSERT_EQ(shell("dd if=/dev/zero of=" + file + " bs=1M count=100 conv=fsync"), 0);
  ASSERT_EQ(shell("rm " + file + " && sync -f " + fd_path(disk.mount())), 0);
  EXPECT_FALSE(trim(disk));
  EXPECT_GE(allocated(disk.file()), 256U << 20);
}

TEST_P(DiskTest, NothingStaysWhenTheDescriptorsAreClosed) {
  std::string path, before;
  {
    const Disk disk = make(64 << 20);
    path = disk.loop().sysfs() + "/loop/backing_file";
    const auto attached = read_file(path);
    ASSERT_TRUE(attached);
    before = *attached;
    EXPECT_EQ(*read_file(disk.loop().sysfs() + "/loop/dio"), "1\n");
    EXPECT_EQ(*read_file(disk.loop().sysfs() + "/loop/autoclear"), "1\n");
  }
  // The last user's work is done by a thread of the kernel.
  EXPECT_TRUE(soon([&] {
    const auto now = read_file(path);  // maybe somebody else's by now
    return !now || *now != before;
  }));
}

TEST_P(DiskTest, SpaceComesBackOnDelete) {
  Disk disk = make(1ULL << 30);
  const std::uint64_t before = allocated(disk.file());
  const std::string root = fd_path(disk.mount());
  ASSERT_EQ(shell("dd if=/dev/urandom of=" + root + "/upper/f bs=1M count=200 conv=fsync"), 0);
  EXPECT_GE(allocated(disk.file()), before + (200 << 20));
  const auto full = usage(disk);
  ASSERT_TRUE(full);
  EXPECT_GE(full->live_bytes, 200U << 20);
  EXPECT_LE(full->live_bytes, 201U << 20);
  ASSERT_EQ(shell("rm " + root + "/upper/f && sync -f " + root), 0);
  EXPECT_TRUE(soon([&] {  // btrfs frees at its own commit
    EXPECT_EQ(shell("sync -f " + host->path()), 0);
    return allocated(disk.file()) < before + (8 << 20);
  }));
}

TEST_P(DiskTest, UsageIsTheSameAttachedAndNot) {
  Usage attached;
  UniqueFd file;
  {
    Disk disk = make(512 << 20);
    ASSERT_EQ(shell("dd if=/dev/zero of=" + fd_path(disk.mount()) + "/upper/f bs=1M count=50"), 0);
    ASSERT_EQ(shell("sync -f " + fd_path(disk.mount())), 0);
    attached = *usage(disk);
    file = UniqueFd(::fcntl(disk.file(), F_DUPFD_CLOEXEC, 0));
  }
  Usage later;
  soon([&] {  // until the kernel has unmounted it
    later = *read_usage(file.get());
    return later.live_bytes == attached.live_bytes;
  });
  EXPECT_EQ(later.usable_bytes, attached.usable_bytes);
  EXPECT_EQ(later.live_bytes, attached.live_bytes);
  EXPECT_EQ(later.inodes, attached.inodes);
  EXPECT_EQ(later.used_inodes, attached.used_inodes);
  EXPECT_TRUE(attached.attached);
  EXPECT_FALSE(later.attached);
}

// The capacity is hard, what was written before stays, and room that is made can be used.
TEST_P(DiskTest, FullIsEnospc) {
  const Disk disk = make(128 << 20);
  const std::string root = fd_path(disk.mount()) + "/upper";
  std::string output;
  ASSERT_EQ(shell("head -c 1000000 /dev/urandom > " + root + "/before && sync -f " + root +
                  " && cp " + root + "/before " + test::scratch_directory() + "/before"),
            0);
  EXPECT_NE(shell("dd if=/dev/zero of=" + root + "/f bs=1M count=200 conv=fsync", &output), 0);
  EXPECT_NE(output.find("No space left on device"), std::string::npos) << output;
  struct stat status {};
  ASSERT_EQ(::stat((root + "/f").c_str(), &status), 0);
  EXPECT_GT(status.st_size, 110 << 20);
  EXPECT_EQ(shell("cmp " + root + "/before " + test::scratch_directory() + "/before"), 0);
  EXPECT_EQ(shell("rm " + root + "/f && dd if=/dev/zero of=" + root + "/g bs=1M count=100"), 0);
}

TEST_P(DiskTest, SecondMountSharesTheSuperblock) {
  Disk disk = make(64 << 20);
  auto again = Disk::join(UniqueFd(::fcntl(disk.file(), F_DUPFD_CLOEXEC, 0)), disk.record());
  ASSERT_TRUE(again) << again.error().message();
  ASSERT_EQ(shell("echo hello > " + fd_path(disk.mount()) + "/upper/f"), 0);
  EXPECT_EQ(*read_file(fd_path(again->mount()) + "/upper/f"), "hello\n");
  struct stat a {
  }, b{};
  ASSERT_EQ(::fstat(disk.mount(), &a) | ::fstat(again->mount(), &b), 0);
  EXPECT_EQ(a.st_dev, b.st_dev);
}

TEST_P(DiskTest, JoinOfOneThatNobodyHasFails) {
  auto file = create_unnamed(host->fd(), 64 << 20);
  ASSERT_TRUE(file);
  const auto joined = Disk::join(std::move(*file), record(Class::kThin));
  ASSERT_FALSE(joined);
  EXPECT_EQ(joined.error().code, ENOTCONN);
}

TEST_P(DiskTest, LockedWhileAttached) {
  UniqueFd other;
  {
    const Disk disk = make(64 << 20);
    ASSERT_TRUE(link_file(disk.file(), host->fd(), "a.img"));
    other = UniqueFd(::openat(host->fd(), "a.img", O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(is_locked_by_others(other.get()));
    EXPECT_EQ(lock_file(other.get()).error().code, EBUSY);
  }
  EXPECT_TRUE(soon([&] { return !is_locked_by_others(other.get()); }));
}

class OverlayTest : public DiskTest {};
UMWELT_ON_EACH_HOST(OverlayTest);

TEST_P(OverlayTest, BothWays) {
  const std::string lower = host->path() + "/lower";
  ASSERT_EQ(shell("mkdir -p " + lower + "/etc && echo lower > " + lower + "/etc/name"), 0);
  for (const OverlayWay way : {OverlayWay::kStrings, OverlayWay::kDescriptors}) {
    const Disk disk = make(128 << 20);
    auto lower_mount = clone_mount(AT_FDCWD, lower);
    ASSERT_TRUE(lower_mount) << lower_mount.error().message();
    auto mount = mount_overlay(
        {.lowers = {lower_mount->get()}, .disk = disk.mount(), .name = "umwelt:web"}, way);
    if (!mount && way == OverlayWay::kDescriptors) GTEST_SKIP() << "needs linux-6.15: descriptors";
    ASSERT_TRUE(mount) << mount.error().message();
    const std::string root = fd_path(mount->get());
    EXPECT_EQ(*read_file(root + "/etc/name"), "lower\n");
    ASSERT_EQ(shell("echo upper > " + root + "/etc/name && rm -r " + root +
                    "/etc/name && echo x > " + root + "/y"),
              0);
    EXPECT_EQ(*read_file(lower + "/etc/name"), "lower\n");
    EXPECT_EQ(*read_file(fd_path(disk.mount()) + "/upper/y"), "x\n");
    struct statvfs status {};
    ASSERT_EQ(::fstatvfs(mount->get(), &status), 0);
    EXPECT_LT(status.f_blocks * status.f_frsize, 128U << 20);
    EXPECT_GT(status.f_blocks * status.f_frsize, 110U << 20);
  }
}

TEST_P(OverlayTest, VolumeRootIsUpperAlone) {
  const Disk disk = make(64 << 20);
  for (const bool read_only : {false, true}) {
    auto root = volume_root(disk, read_only);
    ASSERT_TRUE(root) << root.error().message();
    EXPECT_EQ(shell("ls -A " + fd_path(root->get()) + "/"), 0);
    EXPECT_EQ(shell("test -z \"$(ls -A " + fd_path(root->get()) + "/)\""), 0);
    EXPECT_EQ(
        shell("touch " + fd_path(root->get()) + "/f && rm " + fd_path(root->get()) + "/f") == 0,
        !read_only);
  }
}

class GrowTest : public DiskTest {};
UMWELT_ON_EACH_HOST(GrowTest);

TEST_P(GrowTest, OfflineUpAndDown) {
  UniqueFd file;
  Record grown;
  {
    Disk disk = make(128 << 20);
    disk.record().capacity_bytes = 128 << 20;
    ASSERT_TRUE(write_record(disk.file(), disk.record()));
    ASSERT_EQ(shell("echo kept > " + fd_path(disk.mount()) + "/upper/f"), 0);
    ASSERT_TRUE(link_file(disk.file(), host->fd(), "a.img"));
  }
  file = UniqueFd(::openat(host->fd(), "a.img", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(soon([&] { return lock_file(file.get()).has_value(); }));
  grown = *read_record(file.get());
  for (const std::uint64_t bytes : {1ULL << 30, 64ULL << 20, 40ULL << 30}) {
    if (bytes > grown.capacity_bytes) {
      ASSERT_TRUE(lengthen(file.get(), grown.cls, grown.capacity_bytes, bytes));
    }
    const auto resized = resize(file.get(), grown.cls, bytes);
    ASSERT_TRUE(resized) << bytes << ": " << resized.error().message();
    struct stat status {};
    ASSERT_EQ(::fstat(file.get(), &status), 0);
    EXPECT_EQ(static_cast<std::uint64_t>(status.st_size), bytes);
    grown.capacity_bytes = bytes;
    const auto report = check(file.get(), Effort::kLook);
    ASSERT_TRUE(report);
    EXPECT_EQ(report->health, Health::kClean) << report->text;
    // The metadata of the larger filesystem is allocated, so that a full host stays a soft error.
    const auto superblock = read_superblock(file.get());
    ASSERT_TRUE(superblock);
    const auto metadata = read_metadata_blocks(file.get(), *superblock);
    ASSERT_TRUE(metadata) << metadata.error().message();
    std::uint64_t sum = 0;
    for (const Extent& e : *metadata) sum += e.size;
    ::fsync(file.get());
    EXPECT_GE(allocated(file.get()), sum);
  }
  auto disk = Disk::attach(std::move(file), grown, kOwner);
  ASSERT_TRUE(disk) << disk.error().message();
  EXPECT_EQ(*read_file(fd_path(disk->mount()) + "/upper/f"), "kept\n");
  EXPECT_EQ(usage(*disk)->usable_bytes, read_usage(disk->file())->usable_bytes);
}

TEST_P(GrowTest, AttachedOrRefusedWithEverythingAsItWas) {
  Disk disk = make(128 << 20);
  disk.record().capacity_bytes = 128 << 20;
  ASSERT_TRUE(lengthen(disk.file(), Class::kThin, 128 << 20, 512 << 20));
  const auto grown = grow_attached(disk, 128 << 20, 512 << 20);
  const std::uint64_t size = usage(disk)->usable_bytes;
  if (grown) {
    EXPECT_GT(size, 450U << 20);
    EXPECT_EQ(disk.record().capacity_bytes, 512U << 20);
  } else {
    EXPECT_EQ(grown.error().code, EPERM) << grown.error().message();  // no CAP_SYS_RESOURCE
    EXPECT_LT(size, 128U << 20);
    EXPECT_EQ(usage(disk)->capacity_bytes, 128U << 20);
    EXPECT_EQ(disk.record().capacity_bytes, 128U << 20);
  }
  EXPECT_EQ(
      shell("echo x > " + fd_path(disk.mount()) + "/upper/f && sync -f " + fd_path(disk.mount())),
      0);
}

TEST(Loops, ManyAtOnce) {
  constexpr unsigned kThreads = 8, kEach = 12;
  auto host = test::HostFilesystem::make("root", 0);
  std::vector<std::thread> threads;
  std::atomic<unsigned> failures{0};
  std::mutex mutex;
  std::vector<Loop> loops;  // all at once
  for (unsigned i = 0; i < kThreads; ++i)
    threads.emplace_back([&] {
      for (unsigned j = 0; j < kEach; ++j) {
        const auto file = create_unnamed(host->fd(), 1 << 20);
        auto loop = Loop::attach(file->get(), {.name = "umwelt/test/many"});
        if (!loop) {
          ADD_FAILURE() << loop.error().message();
          ++failures;
          continue;
        }
        EXPECT_TRUE(Loop::find(loop->number(), file->get()));
        const std::lock_guard lock(mutex);
        loops.push_back(std::move(*loop));
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(failures, 0u);
  std::set<unsigned> numbers;
  for (const Loop& loop : loops) numbers.insert(loop.number());
  EXPECT_EQ(numbers.size(), kThreads * kEach);
}

TEST(Capacity, LargerThanTheHostAllows) {
  auto host = test::HostFilesystem::make("root", 0);
  const auto file = create_unnamed(host->fd(), kMaxCapacityBytes);
  if (file) GTEST_SKIP() << "needs ext4: this filesystem has files of 64 TiB";
  EXPECT_EQ(file.error().code, EFBIG);
}

}  // namespace
}  // namespace umwelt::vdisk
