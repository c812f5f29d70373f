// SPDX-License-Identifier: Apache-2.0
#include "vdisk/pool.h"

#include <gtest/gtest.h>

namespace umwelt::vdisk {
namespace {

constexpr std::uint64_t kGiB = 1ULL << 30, kMiB = 1ULL << 20;

TEST(Policy, Words) {
  EXPECT_EQ(*parse_overcommit("reserve"), std::nullopt);
  EXPECT_EQ(*parse_overcommit("overcommit=2.5"), 2.5);
  EXPECT_EQ(*parse_overcommit("overcommit=1"), 1.0);
  for (const char* bad : {"", "overcommit", "overcommit=", "overcommit=0.9", "overcommit=1001",
                          "overcommit=nan", "overcommit=-2", "overcommit=1e3", "Reserve", "2.0"}) {
    const auto policy = parse_overcommit(bad);
    ASSERT_FALSE(policy) << bad;
    EXPECT_EQ(policy.error().code, 0);
  }
}

TEST(Sums, SizeIsWhatIsFreeAndWhatIsOurs) {
  const Sums s = sums({}, {.free_bytes = 60 * kGiB}, 3, 90 * kGiB, 20 * kGiB);
  EXPECT_EQ(s.size_bytes, 80 * kGiB);
  EXPECT_EQ(s.free_bytes, 60 * kGiB);
  EXPECT_EQ(s.promisable_bytes(), 320 * kGiB);
  EXPECT_EQ(s.low_water_bytes, 8 * kGiB);
  EXPECT_EQ(s.critical_bytes, 4 * kGiB);
}

TEST(Sums, ConfiguredSizeIsACeiling) {
  const Sums s = sums({.size_bytes = 30 * kGiB}, {.free_bytes = 60 * kGiB}, 1, 0, 20 * kGiB);
  EXPECT_EQ(s.size_bytes, 30 * kGiB);
  EXPECT_EQ(s.free_bytes, 10 * kGiB);
  const Sums over = sums({.size_bytes = 10 * kGiB}, {.free_bytes = 60 * kGiB}, 1, 0, 20 * kGiB);
  EXPECT_EQ(over.free_bytes, 0u);
  EXPECT_EQ(level(over), Level::kCritical);
}

TEST(Sums, MarksHaveACeiling) {
  const Sums s = sums({}, {.free_bytes = 1000 * kGiB}, 0, 0, 0);
  EXPECT_EQ(s.low_water_bytes, 10 * kGiB);
  EXPECT_EQ(s.critical_bytes, 5 * kGiB);
}

TEST(Sums, NothingOverflows) {
  const Sums s = sums({.overcommit = 1000.0}, {.free_bytes = ~0ULL}, 1, ~0ULL, ~0ULL);
  EXPECT_EQ(s.size_bytes, ~0ULL);
  EXPECT_EQ(s.promisable_bytes(), ~0ULL);
  EXPECT_EQ(s.free_bytes, 0u);
}

TEST(Level, Marks) {
  const Policy policy{.low_water_bytes = 200 * kMiB, .critical_bytes = 100 * kMiB};
  EXPECT_EQ(level(sums(policy, {.free_bytes = 200 * kMiB}, 0, 0, 0)), Level::kNormal);
  EXPECT_EQ(level(sums(policy, {.free_bytes = 199 * kMiB}, 0, 0, 0)), Level::kLow);
  EXPECT_EQ(level(sums(policy, {.free_bytes = 99 * kMiB}, 0, 0, 0)), Level::kCritical);
}

// A pool of 3 GiB takes one vdisk of 2 GiB; whether it takes a second is the policy's matter.
TEST(Admit, ReserveAndOvercommit) {
  const HostSpace host{.free_bytes = 3 * kGiB};
  Policy policy{.overcommit = std::nullopt};
  EXPECT_TRUE(admit(sums(policy, host, 0, 0, 0), 2 * kGiB, 32 * kMiB));
  const auto second = admit(sums(policy, host, 1, 2 * kGiB, 0), 2 * kGiB, 32 * kMiB);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, 0);
  for (const char* part : {"2.0 GiB promised to 1 vdisks", "make 4.0 GiB", "reserve", "3.0 GiB"})
    EXPECT_NE(second.error().text.find(part), std::string::npos) << second.error().text;
  policy.overcommit = 2.0;
  EXPECT_TRUE(admit(sums(policy, host, 1, 2 * kGiB, 0), 2 * kGiB, 32 * kMiB));
  EXPECT_FALSE(admit(sums(policy, host, 2, 4 * kGiB, 0), 2 * kGiB + kMiB, 32 * kMiB));
}

TEST(Admit, NotBelowTheLowWaterMark) {
  const Policy policy{.overcommit = 100.0, .low_water_bytes = kGiB};
  const HostSpace host{.free_bytes = 2 * kGiB};
  EXPECT_TRUE(admit(sums(policy, host, 0, 0, 0), kGiB, kGiB));
  const auto refused = admit(sums(policy, host, 0, 0, 0), kGiB, kGiB + 1);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().text.find("low-water"), std::string::npos);
}

TEST(Admit, NotMoreThanThereIs) {
  const Policy policy{.overcommit = 100.0, .size_bytes = 3 * kGiB, .low_water_bytes = 0};
  const HostSpace host{.free_bytes = 10 * kGiB};
  EXPECT_TRUE(admit(sums(policy, host, 1, 0, kGiB), kGiB, 2 * kGiB));
  EXPECT_FALSE(admit(sums(policy, host, 1, 0, kGiB), kGiB, 2 * kGiB + 1));
  EXPECT_FALSE(admit(sums(policy, host, 1, 0, 3 * kGiB + 1), kGiB, 0));
}

TEST(Admit, SumsThatOverflowAreRefused) {
  EXPECT_FALSE(admit(sums({}, {.free_bytes = kGiB}, 1, ~0ULL - 5, 0), kGiB, 0));
}

TEST(Amount, Units) {
  EXPECT_EQ(amount(0), "0.0 MiB");
  EXPECT_EQ(amount(1536 * kMiB), "1.5 GiB");
  EXPECT_EQ(amount(512 * kMiB), "512.0 MiB");
}

}  // namespace
}  // namespace umwelt::vdisk
