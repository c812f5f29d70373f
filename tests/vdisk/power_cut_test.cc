// SPDX-License-Identifier: Apache-2.0
// What was said to be there is there when the machine loses its power at the next moment.
#include <fcntl.h>
#include <linux/types.h>
#include <sys/ioctl.h>

#include "base/file.h"
#include "host.h"
#include "vdisk/tool.h"

namespace umwelt::vdisk {
namespace {

using test::idle;
using test::shell;
using test::soon;
using test::wish;
using test::write_kept;

constexpr std::uint64_t kMiB = 1ULL << 20;

class PowerCutTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    path_ = test::make_directory("power");
    backing_ = test::scratch_directory() + "/power.backing";
    const std::string type = GetParam();
    ASSERT_EQ(shell("truncate -s 1G " + backing_), 0);
    if (shell("mkfs." + type + " -q " + (type == "ext4" ? "-F " : "-f ") + backing_) != 0)
      GTEST_SKIP() << "needs " << type;
    ASSERT_TRUE(mount());
  }
  void TearDown() override {
    if (!IsSkipped()) {
      EXPECT_TRUE(unmount());
    }
    EXPECT_EQ(shell("rm -f " + backing_), 0);
  }
  bool mount() const { return shell("mount -o loop " + backing_ + " " + path_) == 0; }
  bool unmount() const {
    return soon([&] { return shell("umount " + path_) == 0; });
  }
  Store open() const {
    auto store = Store::open(path_ + "/vdisks", test::scratch_directory() + "/templates", {});
    EXPECT_TRUE(store) << store.error().message();
    return std::move(*store);
  }
  // XFS_IOC_GOINGDOWN and EXT4_IOC_SHUTDOWN, without a flush of the journal.
  void cut() const {
    const UniqueFd root(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const __u32 without_flush = 2;
    ASSERT_EQ(::ioctl(root.get(), _IOR('X', 125, __u32), &without_flush), 0);
  }
  void cut_and_mount_again() const {
    cut();
    ASSERT_TRUE(unmount());
    ASSERT_TRUE(mount());
  }
  static void expect_clean(const Store& store, const std::string& name, std::uint64_t bytes) {
    const auto entry = store.find(name);
    ASSERT_TRUE(entry) << name << ": " << entry.error().message();
    ASSERT_TRUE(entry->record) << name;
    EXPECT_EQ(entry->record->capacity_bytes, bytes) << name;
    const auto file = store.lock(name);
    ASSERT_TRUE(file) << name << ": " << file.error().message();
    const auto report = check(file->get(), Effort::kLook);
    ASSERT_TRUE(report) << name << ": " << report.error().message();
    EXPECT_EQ(report->health, Health::kClean) << name << ": " << report->text;
  }
  std::string path_, backing_;
};
INSTANTIATE_TEST_SUITE_P(Host, PowerCutTest, testing::Values("ext4", "xfs"),
                         [](const auto& instance) { return std::string(instance.param); });

TEST_P(PowerCutTest, OneThatWasMadeIsThere) {
  ASSERT_TRUE(open().create(wish(64 * kMiB), "a"));
  cut_and_mount_again();
  expect_clean(open(), "a", 64 * kMiB);
}

TEST_P(PowerCutTest, ACopyIsThere) {
  {
    const Store store = open();
    ASSERT_TRUE(store.create(wish(64 * kMiB), "a"));
    write_kept(store, "a");
    ASSERT_TRUE(store.copy("a", "b", false, {}));
  }
  cut_and_mount_again();
  const Store store = open();
  expect_clean(store, "b", 64 * kMiB);
  {
    const auto disk = store.attach("b");
    ASSERT_TRUE(disk) << disk.error().message();
    EXPECT_EQ(*read_file(path_of(disk->mount()) + "/upper/f"), "kept\n");
  }
  EXPECT_TRUE(idle(store, "b"));
}

TEST_P(PowerCutTest, OneThatGrewIsAsLong) {
  ASSERT_TRUE(open().create(wish(64 * kMiB), "a"));
  ASSERT_TRUE(open().resize("a", 128 * kMiB));
  cut_and_mount_again();
  expect_clean(open(), "a", 128 * kMiB);
}

}  // namespace
}  // namespace umwelt::vdisk
