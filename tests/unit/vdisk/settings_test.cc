// SPDX-License-Identifier: Apache-2.0
#include "vdisk/settings.h"

#include <gtest/gtest.h>
#include <sys/sysmacros.h>

#include "vdisk/io_limits.h"

namespace umwelt::vdisk {
namespace {

TEST(DiskSettings, Defaults) {
  const auto settings = parse_settings("log_level = 'info'\n", "x.toml");
  ASSERT_TRUE(settings);
  EXPECT_EQ(settings->policy.overcommit, 4.0);
  EXPECT_EQ(settings->ready, 0U);
  EXPECT_TRUE(read_settings("/nonexistent/umwelt.toml"));
}

TEST(DiskSettings, EveryKey) {
  const auto s = parse_settings(
      "[disk]\npolicy = 'reserve'\npool_size = '3g'\nlow_water = '100m'\ncritical = 4096\n"
      "ballast = '1m'\nready = 4\nready_size = '64m'\nready_class = 'guaranteed'\n"
      "trim_interval_s = 0\n",
      "x.toml");
  ASSERT_TRUE(s) << s.error().message();
  EXPECT_FALSE(s->policy.overcommit);
  EXPECT_EQ(s->policy.size_bytes, 3ULL << 30);
  EXPECT_EQ(s->policy.low_water_bytes, 100ULL << 20);
  EXPECT_EQ(s->policy.critical_bytes, 4096U);
  EXPECT_EQ(s->ballast_bytes, 1ULL << 20);
  EXPECT_EQ(s->ready, 4U);
  EXPECT_EQ(s->ready_bytes, 64ULL << 20);
  EXPECT_EQ(s->ready_class, Class::kGuaranteed);
  EXPECT_EQ(s->trim_interval_s, 0U);
}

TEST(DiskSettings, WhatIsWrongIsNamedWithItsLine) {
  for (const char* line :
       {"policy = 'plenty'", "policy = 2", "pool_size = '-1'", "ready = -1", "ready = 1001",
        "ready_size = '1m'", "ready_class = 'fast'", "trim_interval_s = '1'", "unknown = 1"}) {
    const auto settings = parse_settings(std::string("\n[disk]\n") + line + "\n", "x.toml");
    ASSERT_FALSE(settings) << line;
    EXPECT_TRUE(settings.error().text.starts_with("x.toml:3: disk.")) << settings.error().text;
  }
  const auto turned =
      parse_settings("[disk]\nlow_water = '1m'\ncritical = '2m'\nready = 1\n", "x.toml");
  ASSERT_FALSE(turned);
  EXPECT_TRUE(turned.error().text.starts_with("x.toml:3: disk.critical ")) << turned.error().text;
  EXPECT_TRUE(parse_settings("[disk]\nlow_water = '1m'\ncritical = '1m'\n", "x.toml"));
  EXPECT_FALSE(parse_settings("disk = 1", "x.toml"));
  EXPECT_FALSE(parse_settings("[disk", "x.toml"));
}

TEST(IoLimits, AsTheKernelWantsThem) {
  const dev_t device = makedev(7, 3);
  EXPECT_EQ(render_v1_limit(device, 10U << 20), "7:3 10485760");
  EXPECT_EQ(render_v1_limit(device, std::nullopt), "7:3 0");
  IoLimits limits;
  limits.write_bps = 1000;
  EXPECT_EQ(render_v2_limits(device, limits), "7:3 rbps=max wbps=1000 riops=max wiops=max");
}

// CONFIG_BLK_DEV_THROTTLING=n
TEST(IoLimits, AKernelThatThrottlesNothingRefusesLimitsOnly) {
  const dev_t device = makedev(7, 3);
  const std::string blkio = testing::TempDir();
  const auto none = apply_v1_limits(blkio, device, {});
  EXPECT_TRUE(none) << none.error().message();
  IoLimits limits;
  limits.read_iops = 100;
  const auto refused = apply_v1_limits(blkio, device, limits);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().message().starts_with("a speed limit: this kernel"))
      << refused.error().message();
}

}  // namespace
}  // namespace umwelt::vdisk
