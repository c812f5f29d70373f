// SPDX-License-Identifier: Apache-2.0
// Vdisks that are prepared before somebody wants them.
#include "vdisk/ready.h"

#include "host.h"
#include "vdisk/store.h"

namespace umwelt::vdisk {
namespace {

using test::shell;
using test::wish;

constexpr std::uint64_t kMiB = 1ULL << 20;

class ReadyTest : public test::OnEachHost {};
UMWELT_ON_EACH_HOST(ReadyTest);

TEST_P(ReadyTest, PreparedOnesOfAKeeperThatIsGoneGo) {
  const Store store = open();
  const std::string folder = host->path() + "/vdisks/.ready";
  ASSERT_TRUE(ReadyPool::clear(store));  // none was ever made
  auto pool = ReadyPool::open(store, {.capacity_bytes = 64 * kMiB, .count = 1});
  ASSERT_TRUE(pool) << pool.error().message();
  ASSERT_TRUE(pool->refill(true));
  EXPECT_EQ(shell("test -n \"$(ls -A " + folder + ")\""), 0);
  ASSERT_TRUE(ReadyPool::clear(store));
  EXPECT_EQ(shell("test -z \"$(ls -A " + folder + ")\""), 0);
}

TEST_P(ReadyTest, APreparedOneIsInUseUntilItsKeeperHasLetGo) {
  const Store store = open();
  auto pool = ReadyPool::open(store, {.capacity_bytes = 64 * kMiB, .count = 1});
  ASSERT_TRUE(pool && pool->refill(true));
  {
    auto disk = store.take(wish(64 * kMiB));
    ASSERT_TRUE(disk) << disk.error().message();
    ASSERT_NE(disk->ready_name(), "");
    ASSERT_TRUE(store.publish(*disk, "a"));
  }
  const auto locked = store.lock("a");
  ASSERT_FALSE(locked) << "two would mount it";
  EXPECT_EQ(locked.error().code, EBUSY);
  ASSERT_TRUE(pool->refill(false));
  const auto disk = store.attach("a");
  EXPECT_TRUE(disk) << disk.error().message();
}

}  // namespace
}  // namespace umwelt::vdisk
