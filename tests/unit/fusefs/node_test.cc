// SPDX-License-Identifier: Apache-2.0
#include "fusefs/node.h"

#include <gtest/gtest.h>

namespace umwelt::fusefs {
namespace {

TEST(NodeId, SurvivesTheRoundTrip) {
  for (const std::uint64_t container :
       {std::uint64_t{0}, std::uint64_t{7}, NodeId::kMaxContainer}) {
    for (const std::optional<unsigned> instance :
         {std::optional<unsigned>{}, {0U}, {1U}, {8191U}, {NodeId::kProcess}}) {
      for (const std::uint32_t key : {2U, 12345U, NodeId::kMaxKey}) {
        const NodeId id{container, instance, key};
        EXPECT_EQ(NodeId::from(id.value()), id);
      }
    }
  }
}

TEST(NodeId, RootIsNobodyElse) { EXPECT_EQ(NodeId::from(NodeId::kRoot), (NodeId{0, {}, 1})); }

TEST(ParseNumbered, OnlyTheKernelsOwnSpelling) {
  EXPECT_EQ(parse_numbered("cpu0", "cpu"), 0U);
  EXPECT_EQ(parse_numbered("cpu12", "cpu"), 12U);
  EXPECT_EQ(parse_numbered("cpu8191", "cpu"), 8191U);
  for (const char* name : {"cpu", "cpu00", "cpu012", "cpu8192", "cpu-1", "cpu1 ", "cpu1a", "CPU1",
                           "cpufreq", "cpu18446744073709551617", ""})
    EXPECT_FALSE(parse_numbered(name, "cpu")) << name;
  EXPECT_EQ(parse_numbered("node3", "node"), 3U);
  EXPECT_FALSE(parse_numbered("node3", "cpu"));
}

}  // namespace
}  // namespace umwelt::fusefs
