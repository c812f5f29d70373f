// SPDX-License-Identifier: Apache-2.0
#include "vdisk/record.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

namespace umwelt::vdisk {
namespace {

Record sample() {
  Record r;
  r.id = "0123456789abcdef";
  r.kind = Kind::kVolume;
  r.cls = Class::kGuaranteed;
  r.capacity_bytes = 10ULL << 30;
  r.image = "debian";
  r.snapshot_of = "volume:data";
  r.keep = false;
  r.shared = true;
  r.created_s = 1700000000;
  r.limits.write_bps = 10 << 20;
  r.limits.read_iops = 500;
  return r;
}

TEST(Record, ThereAndBack) {
  const auto r = record_from_json(to_json(sample()));
  ASSERT_TRUE(r) << r.error().message();
  EXPECT_EQ(to_json(*r), to_json(sample()));
  EXPECT_EQ(r->limits, sample().limits);
}

TEST(Record, DamagedIsRefused) {
  for (const char* key : {"id", "kind", "class", "capacity_bytes", "image", "keep", "limits"}) {
    nlohmann::json json = to_json(sample());
    json.erase(key);
    const auto r = record_from_json(json);
    ASSERT_FALSE(r) << key;
    EXPECT_EQ(r.error().code, EUCLEAN);
  }
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, nlohmann::json>>{
           {"kind", "root"},
           {"class", ""},
           {"capacity_bytes", 0},
           {"capacity_bytes", 4097},
           {"capacity_bytes", -4096},
           {"capacity_bytes", "10G"},
           {"id", 5},
           {"limits", {{"read_bps", "x"}}}}) {
    nlohmann::json json = to_json(sample());
    json[key] = value;
    EXPECT_FALSE(record_from_json(json)) << key << " " << value;
  }
  EXPECT_FALSE(record_from_json(nlohmann::json::array()));
}

TEST(Name, Bounds) {
  for (const char* good : {"a", "web-1", "volume:data", "A.b_c", "0"})
    EXPECT_TRUE(valid_name(good));
  for (const std::string& bad :
       {std::string(), std::string("volume:"), std::string(".hidden"), std::string("a/b"),
        std::string(".."), std::string("a b"), std::string("volume:volume:a"), std::string("-x"),
        std::string("a\0b", 3), std::string(65, 'a'), std::string("\xc3\xa4")})
    EXPECT_FALSE(valid_name(bad)) << bad;
  EXPECT_TRUE(valid_name(std::string(64, 'a')));
}

TEST(Id, SixteenDigitsAndNeverTwice) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = random_id();
    EXPECT_EQ(id.size(), 16u);
    EXPECT_TRUE(seen.insert(id).second);
  }
}

}  // namespace
}  // namespace umwelt::vdisk
