// SPDX-License-Identifier: Apache-2.0
#include "cgroup/parse.h"

#include <gtest/gtest.h>

namespace umwelt::cgroup {
namespace {

using Bytes = std::optional<std::uint64_t>;

TEST(ParseMax, NumberOrMax) {
  EXPECT_EQ(*parse_max("268435456\n"), Bytes(268435456));
  EXPECT_EQ(*parse_max("0\n"), Bytes(0));
  EXPECT_EQ(*parse_max("max\n"), Bytes());
  for (const char* text : {"", "maxx", "-1", "1 2", "18446744073709551616"})
    EXPECT_FALSE(parse_max(text)) << text;
}

TEST(ParseLimitInBytes, PageCounterMaxIsNoLimit) {
  EXPECT_EQ(*parse_limit_in_bytes("268435456\n"), Bytes(268435456));
  EXPECT_EQ(*parse_limit_in_bytes("9223372036854771712\n"), Bytes());  // 4 KiB pages
  EXPECT_EQ(*parse_limit_in_bytes("9223372036854710272\n"), Bytes());  // 64 KiB pages
  EXPECT_EQ(*parse_limit_in_bytes("18446744073709551615\n"), Bytes());
  EXPECT_FALSE(parse_limit_in_bytes("max"));
}

TEST(ParseCpuMax, QuotaAndPeriod) {
  EXPECT_EQ(*parse_cpu_max("50000 100000\n"), (Bandwidth{50000, 100000}));
  EXPECT_EQ(*parse_cpu_max("max 100000\n"), std::nullopt);
  for (const char* text : {"", "max", "50000", "50000 0", "x 100000", "-1 100000"})
    EXPECT_FALSE(parse_cpu_max(text)) << text;
}

TEST(ParseCfs, MinusOneIsNone) {
  EXPECT_EQ(*parse_cfs("50000\n", "100000\n"), (Bandwidth{50000, 100000}));
  EXPECT_EQ(*parse_cfs("-1\n", "100000\n"), std::nullopt);
  EXPECT_FALSE(parse_cfs("50000", "0"));
  EXPECT_FALSE(parse_cfs("", ""));
}

TEST(ParseMemoryStat, WholeKeysOnly) {
  const auto stat = parse_memory_stat_v2(
      "anon 10\nfile 20\nkernel 5\nfile_mapped 7\nfile_dirty 8\nfile_thp 9\nshmem 4\nslab 99\n"
      "slab_reclaimable 3\nanon_thp 2\nbroken\ninactive_file x\nactive_file 6\n");
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->file, 20u);
  EXPECT_EQ(stat->file_mapped, 7u);
  EXPECT_EQ(stat->file_dirty, 8u);
  EXPECT_EQ(stat->file_thp, Bytes(9));
  EXPECT_EQ(stat->kernel, Bytes(5));
  EXPECT_EQ(stat->slab_reclaimable, Bytes(3));
  EXPECT_EQ(stat->slab_unreclaimable, Bytes());
  EXPECT_EQ(stat->inactive_file, 0u);
  EXPECT_EQ(stat->active_file, 6u);
  EXPECT_FALSE(parse_memory_stat_v2("nothing 1\n"));
}

TEST(ParseMemoryStat, V1TakesTheTotals) {
  const auto out = parse_memory_stat_v1(
      "cache 1\nrss 2\nswap 3\ntotal_cache 10\ntotal_rss 20\ntotal_rss_huge 4\ntotal_swap 30\n"
      "total_mapped_file 5\n");
  ASSERT_TRUE(out);
  EXPECT_EQ(out->stat.file, 10u);
  EXPECT_EQ(out->stat.anon, 20u);
  EXPECT_EQ(out->stat.anon_thp, 4u);
  EXPECT_EQ(out->stat.file_mapped, 5u);
  EXPECT_EQ(out->swap_bytes, Bytes(30));
  EXPECT_EQ(parse_memory_stat_v1("total_rss 1\n")->swap_bytes, Bytes());
  EXPECT_FALSE(parse_memory_stat_v1("rss 1\n"));
}

TEST(ParseCpuStat, BothVersions) {
  const auto stat = parse_cpu_stat(
      "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnice_usec 1\n"
      "nr_throttled 7\nthrottled_usec 3\n");
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->usage_us, 9u);
  EXPECT_EQ(stat->nice_us, 1u);
  EXPECT_EQ(stat->throttled_us, 3u);
  EXPECT_FALSE(parse_cpu_stat(""));
  EXPECT_EQ(*parse_throttled_time_v1("nr_throttled 1\nthrottled_time 12345\n"), 12345u);
  EXPECT_FALSE(parse_throttled_time_v1("throttled_time_x 1\n"));
}

TEST(ParseCpuacct, UsageAndTicks) {
  EXPECT_EQ(*parse_usage_percpu("34725212606 0 7 \n"),
            (std::vector<std::uint64_t>{34725212606, 0, 7}));
  EXPECT_FALSE(parse_usage_percpu(""));
  EXPECT_FALSE(parse_usage_percpu("1 x"));
  const auto stat = parse_cpuacct_stat("user 7207\nsystem 2951\n");
  EXPECT_EQ(stat->user, 7207u);
  EXPECT_EQ(stat->system, 2951u);
}

TEST(ParseTaskState, ANameMayHoldAnything) {
  EXPECT_EQ(*parse_task_state("17319 (python3) R 17236 1 2"), 'R');
  EXPECT_EQ(*parse_task_state("1 (a) R (b) D 1 2"), 'D');
  for (const char* text : {"", "1 (a", "1 (a)", "1 (a) RR 2"})
    EXPECT_FALSE(parse_task_state(text)) << text;
}

TEST(ParseIds, PassesOverWhatIsNone) {
  EXPECT_EQ(parse_ids("1\n\n0\n4294967295\n4294967296\n-3\nx\n22"),
            (std::vector<std::uint32_t>{1, 4294967295, 22}));
}

}  // namespace
}  // namespace umwelt::cgroup
