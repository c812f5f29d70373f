// SPDX-License-Identifier: Apache-2.0
#include "base/cpu_set.h"

#include <gtest/gtest.h>

namespace umwelt {
namespace {

TEST(CpuSet, ParsesAndPrintsKernelLists) {
  for (const char* list : {"", "0", "0-1", "1,4-5", "0,2,4", "63-64", "0-8191"}) {
    auto set = CpuSet::parse(list);
    ASSERT_TRUE(set) << list;
    EXPECT_EQ(set->list(), list);
  }
  EXPECT_EQ(CpuSet::parse(" 1-2\n")->list(), "1-2");
  EXPECT_EQ(CpuSet::parse("0-31:2/8")->list(), "0-1,8-9,16-17,24-25");
  EXPECT_EQ(CpuSet::parse("3,1,2,1")->list(), "1-3");
}

TEST(CpuSet, RefusesWhatIsNoList) {
  for (const char* list : {"a", "1-", "-1", "2-1", "1,", ",1", "1,,2", "8192", "0-8192", "1:2/3",
                           "0-3:0/2", "0-3:3/2", "0-3:1", "18446744073709551616", "1 2", "0x1"}) {
    EXPECT_FALSE(CpuSet::parse(list)) << list;
  }
}

TEST(CpuSet, MasksAreTheKernelsBitmapFormat) {
  EXPECT_EQ(CpuSet::parse("0-1")->mask(2), "3");
  EXPECT_EQ(CpuSet::parse("1,4-5")->mask(8), "32");
  EXPECT_EQ(CpuSet::parse("0,33")->mask(64), "00000002,00000001");
  EXPECT_EQ(CpuSet::parse("33")->mask(34), "2,00000000");
  EXPECT_EQ(CpuSet().mask(64), "00000000,00000000");
}

TEST(CpuSet, Arithmetic) {
  const CpuSet a = *CpuSet::parse("0-3,70");
  const CpuSet b = *CpuSet::parse("2-5");
  EXPECT_EQ((a & b).list(), "2-3");
  EXPECT_EQ((a | b).list(), "0-5,70");
  EXPECT_EQ((a - b).list(), "0-1,70");
  EXPECT_EQ(a.first(3).list(), "0-2");
  EXPECT_EQ(a.count(), 5U);
  EXPECT_EQ(*a.last(), 70U);
  EXPECT_FALSE(CpuSet().last());
  EXPECT_TRUE(a.contains(*CpuSet::parse("1,70")));
  EXPECT_FALSE(a.contains(b));
  CpuSet c = a;
  c.clear(70);
  EXPECT_EQ(c, *CpuSet::parse("0-3"));
}

TEST(CpuSet, ParsesMasks) {
  EXPECT_EQ(CpuSet::parse_mask("3f")->list(), "0-5");
  EXPECT_EQ(CpuSet::parse_mask("8,00000001")->list(), "0,35");
  EXPECT_EQ(CpuSet::parse_mask("0")->list(), "");
  const CpuSet set = *CpuSet::parse("1,33,64-70");
  EXPECT_EQ(CpuSet::parse_mask(set.mask(96)), set);
  for (const char* text : {"", ",", "x", "3F", "f f"})
    EXPECT_FALSE(CpuSet::parse_mask(text)) << text;
  EXPECT_FALSE(CpuSet::parse_mask(std::string(2049, '0')));
  EXPECT_TRUE(CpuSet::parse_mask(std::string(2048, 'f')));
}

}  // namespace
}  // namespace umwelt
