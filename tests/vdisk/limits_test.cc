// SPDX-License-Identifier: Apache-2.0
// Speed limits belong to the use of a volume, not to the loop device that it happened to have.
#include <sys/sysmacros.h>

#include "base/file.h"
#include "host.h"
#include "vdisk/io_limits.h"
#include "vdisk/store.h"

namespace umwelt::vdisk {
namespace {

using test::idle;
using test::soon;

class LimitsTest : public testing::Test {
 protected:
  static bool limited(dev_t device) {
    const auto text = read_file("/sys/class/bdi/" + std::to_string(major(device)) + ":" +
                                std::to_string(minor(device)) + "/strict_limit");
    return text && text->starts_with('1');
  }
  std::unique_ptr<test::HostFilesystem> host = test::HostFilesystem::make("root", 0);
};

TEST_F(LimitsTest, GoWithTheLastUser) {
  const Store store = test::open_store(*host, {});
  Record record = test::wish(64 << 20, Kind::kVolume);
  record.shared = true;
  record.limits.write_bps = 50 << 20;
  ASSERT_TRUE(store.create(record, "volume:v"));
  auto one = store.attach("volume:v");
  ASSERT_TRUE(one) << one.error().message();
  const dev_t device = one->loop().device();
  EXPECT_FALSE(limited(device));  // who trims it wants none
  auto two = store.attach("volume:v");
  ASSERT_TRUE(one->apply_limits());
  if (!limited(device)) GTEST_SKIP() << "needs Linux 6.2: dirty limits of a device";
  ASSERT_TRUE(two->apply_limits());
  { const auto looking = store.join("volume:v"); }
  one->lift_limits();
  EXPECT_TRUE(limited(device));
  two->lift_limits();
  EXPECT_FALSE(limited(device));
  ASSERT_TRUE(one->apply_limits());
  EXPECT_TRUE(limited(device));
  ASSERT_TRUE(lift_forgotten_limits());  // which these are not
  EXPECT_TRUE(limited(device));
  one = fail(0, "killed");
  two = fail(0, "killed");
  ASSERT_TRUE(idle(store, "volume:v"));
  ASSERT_TRUE(soon([&] {
    (void)lift_forgotten_limits();
    return !limited(device);
  }));
}

}  // namespace
}  // namespace umwelt::vdisk
