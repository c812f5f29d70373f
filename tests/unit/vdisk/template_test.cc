// SPDX-License-Identifier: Apache-2.0
#include "vdisk/template.h"

#include <gtest/gtest.h>

namespace umwelt::vdisk {
namespace {

Template sample() {
  Template t;
  t.capacity_bytes = 64 << 20;
  t.extents = {{0, 4096}, {1 << 20, 8192}};
  t.data = std::string(4096, 'a') + std::string(8192, 'b');
  t.metadata = {{0, 4096}, {1 << 20, 16384}};
  t.free_bytes = 60 << 20;
  return t;
}

TEST(Template, ThereAndBack) {
  const auto t = deserialize(serialize(sample()));
  ASSERT_TRUE(t) << t.error().message();
  EXPECT_EQ(t->capacity_bytes, sample().capacity_bytes);
  EXPECT_EQ(t->extents, sample().extents);
  EXPECT_EQ(t->metadata, sample().metadata);
  EXPECT_EQ(t->data, sample().data);
  EXPECT_EQ(t->free_bytes, sample().free_bytes);
  EXPECT_EQ(t->metadata_bytes(), 20480u);
}

// A flipped bit anywhere is noticed: a damaged template would make damaged vdisks.
TEST(Template, EveryFlippedByteIsNoticed) {
  const std::string good = serialize(sample());
  for (std::size_t at = 0; at < good.size(); at += at < 300 ? 1 : 61) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    EXPECT_FALSE(deserialize(bad)) << at;
  }
}

TEST(Template, CutOffIsNoticed) {
  const std::string good = serialize(sample());
  for (std::size_t size = 0; size < good.size(); size += 97)
    EXPECT_FALSE(deserialize(good.substr(0, size))) << size;
  EXPECT_FALSE(deserialize(good + "x"));
}

TEST(Template, ExtentsOutsideAreRefused) {
  Template t = sample();
  t.extents[1].offset = t.capacity_bytes - 4096;
  EXPECT_FALSE(deserialize(serialize(t)));
  t = sample();
  t.metadata.push_back({t.capacity_bytes, 1});
  EXPECT_FALSE(deserialize(serialize(t)));
  t = sample();
  t.metadata.push_back({~0ULL - 4095, 8192});
  EXPECT_FALSE(deserialize(serialize(t)));
}

TEST(Template, CapacityOutOfBounds) {
  for (const std::uint64_t capacity :
       {std::uint64_t{0}, kMinCapacityBytes - 4096, kMaxCapacityBytes + 4096}) {
    const auto t = make_template(capacity, Class::kThin);
    ASSERT_FALSE(t);
    EXPECT_EQ(t.error().code, EINVAL);
  }
}

}  // namespace
}  // namespace umwelt::vdisk
