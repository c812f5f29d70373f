// SPDX-License-Identifier: Apache-2.0
// Space: it comes back from a log that is rewritten again and again, and a host that fills up from
// outside is a soft error. UMWELT_LONG has the long versions.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>

#include "base/file.h"
#include "host.h"
#include "vdisk/housekeeping.h"
#include "vdisk/store.h"
#include "vdisk/tool.h"

namespace umwelt::vdisk {
namespace {

using test::idle;
using test::shell;
using test::soon;

constexpr std::uint64_t kMiB = 1ULL << 20;

bool is_long() { return std::getenv("UMWELT_LONG") != nullptr; }

std::uint64_t allocated(int file) {
  struct stat status {};
  EXPECT_EQ(::fstat(file, &status), 0);
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

// How far a file of that size could be written and synced.
struct Written {
  std::uint64_t bytes = 0;
  int error = 0;
};
Written write_file(const std::string& path, std::uint64_t bytes) {
  Written result;
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file) {
    result.error = errno;
    return result;
  }
  const std::string block(kMiB, 'x');
  while (result.bytes < bytes) {
    const ssize_t n = ::write(file.get(), block.data(), block.size());
    if (n <= 0) {
      result.error = errno;
      return result;
    }
    result.bytes += static_cast<std::uint64_t>(n);
  }
  if (::fsync(file.get()) != 0) result.error = errno;
  return result;
}

struct Rewrite {
  std::uint64_t most = 0, end = 0, metadata = 0, live = 0;
};

class RewriteTest : public test::OnEachHost {
 protected:
  Rewrite run(bool discard) {
    const std::uint64_t capacity = is_long() ? 2048 * kMiB : 256 * kMiB;
    const std::uint64_t file_bytes = is_long() ? 700 * kMiB : 80 * kMiB;
    auto store =
        Store::open(host->path() + "/vdisks", test::scratch_directory() + "/templates", {});
    Record record;
    record.capacity_bytes = capacity;
    EXPECT_TRUE(store->create(record, "log"));
    UniqueFd file = std::move(*store->lock("log"));
    record = *read_record(file.get());
    if (!discard) record.cls = Class::kGuaranteed;  // which is mounted without
    auto disk = Disk::attach(std::move(file), record, "test");
    EXPECT_TRUE(disk) << disk.error().message();
    Rewrite result;
    result.metadata = allocated(disk->file());
    const std::string upper = path_of(disk->mount()) + "/upper";
    const UniqueFd directory(::open(upper.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (int round = 0; round < 20; ++round) {
      const Written written = write_file(upper + "/new", file_bytes);
      EXPECT_EQ(written.error, 0) << std::strerror(written.error);
      result.most = std::max(result.most, allocated(disk->file()));
      EXPECT_EQ(::rename((upper + "/new").c_str(), (upper + "/log").c_str()), 0);
      EXPECT_EQ(::fsync(directory.get()), 0);
    }
    EXPECT_EQ(shell("sync -f " + upper), 0);
    soon([&] {  // btrfs frees at its own commit
      EXPECT_EQ(shell("sync -f " + host->path()), 0);
      result.end = allocated(disk->file());
      return !discard || result.end < file_bytes * 105 / 100 + result.metadata;
    });
    result.live = file_bytes;
    return result;
  }
};
UMWELT_ON_EACH_HOST(RewriteTest);

TEST_P(RewriteTest, SpaceOfARewrittenLogComesBack) {
  const Rewrite r = run(true);
  EXPECT_LE(r.end, r.live * 105 / 100 + r.metadata);
  EXPECT_LE(r.most, 2 * r.live + r.live / 20 + r.metadata);
  // What that left is enough for another one.
  auto store = Store::open(host->path() + "/vdisks", test::scratch_directory() + "/templates", {});
  Record record;
  record.capacity_bytes = 256 * kMiB;
  EXPECT_TRUE(store->create(record, "next"));
}

// The test above can fail: without discard it would.
TEST_P(RewriteTest, WithoutDiscardItDoesNot) {
  const Rewrite r = run(false);
  EXPECT_GT(r.end, 2 * r.live);
}

class FullHostTest : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Host, FullHostTest, testing::Values("ext4", "xfs", "btrfs"),
                         [](const auto& instance) { return std::string(instance.param); });

TEST_P(FullHostTest, FromOutsideIsASoftError) {
  for (int run = 0; run < (is_long() ? 3 : 1); ++run) {
    auto host = test::HostFilesystem::make(GetParam(), 700 * kMiB);
    if (!host) GTEST_SKIP() << "needs " << GetParam();
    auto store = Store::open(host->path() + "/vdisks", test::scratch_directory() + "/templates",
                             {.overcommit = 10.0, .low_water_bytes = 0, .critical_bytes = 0});
    ASSERT_TRUE(store);
    Record record;
    record.capacity_bytes = 1024 * kMiB;
    std::vector<Disk> disks;
    for (const char* name : {"a", "b"}) {
      ASSERT_TRUE(store->create(record, name));
      auto disk = store->attach(name);
      ASSERT_TRUE(disk) << disk.error().message();
      disks.push_back(std::move(*disk));
    }
    const auto upper = [&](std::size_t i) { return path_of(disks[i].mount()) + "/upper"; };
    ASSERT_EQ(write_file(upper(0) + "/before", 20 * kMiB).error, 0);
    std::atomic<bool> stop{false};
    std::atomic<unsigned> errors{0};
    std::vector<std::thread> writers;
    for (std::size_t i = 0; i < 2; ++i)
      writers.emplace_back([&, i] {
        for (unsigned n = 0; !stop; ++n) {
          const std::string path = upper(i) + "/f" + std::to_string(n % 50);
          if (write_file(path, 8 * kMiB).error != 0) ++errors;
        }
      });
    (void)write_file(host->path() + "/filler", 2048 * kMiB);
    EXPECT_TRUE(soon([&] { return errors >= 20; }));
    stop = true;
    for (std::thread& writer : writers) writer.join();
    ASSERT_EQ(::unlink((host->path() + "/filler").c_str()), 0);
    ASSERT_EQ(shell("sync -f " + host->path()), 0);
    for (std::size_t i = 0; i < 2; ++i) {
      // The first one still reports what could not be written.
      const std::string sync = "sync -f " + upper(i);
      EXPECT_EQ(shell("rm -f " + upper(i) + "/f*; " + sync + "; " + sync), 0);
      const Written after = write_file(upper(i) + "/after", 8 * kMiB);
      EXPECT_EQ(after.error, 0) << i << ": " << std::strerror(after.error);
    }
    std::string output;
    EXPECT_EQ(
        shell("head -c 20971520 /dev/zero | tr '\\0' x | cmp - " + upper(0) + "/before", &output),
        0)
        << output;
    disks.clear();
    for (const char* name : {"a", "b"}) {
      ASSERT_TRUE(idle(*store, name));
      const auto file = store->lock(name);
      ASSERT_TRUE(file);
      const auto report = check(file->get(), Effort::kLook);
      ASSERT_TRUE(report);
      EXPECT_EQ(report->health, Health::kClean) << report->text;
    }
  }
}

}  // namespace
}  // namespace umwelt::vdisk
