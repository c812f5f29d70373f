// SPDX-License-Identifier: Apache-2.0
#include "container/history.h"

#include <gtest/gtest.h>

#include "container/kept.h"

namespace umwelt::container {
namespace {

History example() {
  History history;
  history.cpu.boottime_ns = 18446744073709551615ULL;
  history.cpu.used = {.user_ns = 1,
                      .nice_ns = 2,
                      .system_ns = 3,
                      .throttled_ns = 4,
                      .per_cpu = {{0, 5}, {8191, 6}}};
  history.cpu.before = {
      .user_ns = 50, .nice_ns = 51, .system_ns = 52, .throttled_ns = 53, .per_cpu = {}};
  history.cpu.by_id[0] = {10, 11, 12, 13, 14};
  history.cpu.by_id[5] = {20, 21, 22, 23, 24};
  history.cpu.pending = {
      .user_ns = 7, .nice_ns = 8, .system_ns = 9, .throttled_ns = 0, .per_cpu = {}};
  history.cpu.forks = 30;
  history.cpu.processes = 31;
  history.load = {.boottime_ns = 40,
                  .load1 = 0.1,
                  .load5 = 1e-9,
                  .load15 = 1000.5,
                  .busy_ns = 41,
                  .waited_ns = 44,
                  .running = 42,
                  .total = 43,
                  .last_pid = 45};
  history.io[{254, 1}] = {.last = {254, 1, 60, 61, 62, 63, 64, 65},
                          .lost = {0, 0, 70, 71, 72, 73, 74, 75}};
  return history;
}

TEST(History, SurvivesText) {
  const std::string text = history_to_text(example());
  const auto back = history_from_text(text);
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(history_to_text(*back), text);
  EXPECT_EQ(back->cpu.boottime_ns, example().cpu.boottime_ns);
  EXPECT_EQ(back->cpu.used.per_cpu, example().cpu.used.per_cpu);
  EXPECT_EQ(back->cpu.by_id.at(5).steal_ns, 24U);
  EXPECT_EQ(back->cpu.pending.system_ns, 9U);
  EXPECT_EQ(back->cpu.before.throttled_ns, 53U);
  EXPECT_EQ(back->load.load1, 0.1);
  EXPECT_EQ(back->io.at({254, 1}).last.discards, 65U);
  EXPECT_EQ(back->io.at({254, 1}).lost.read_bytes, 70U);
  // Of an earlier version.
  const char* without_io =
      R"({"cpu":{"used":[1,2,3,4],"pending":[0,0,0,0],"per_cpu":[],"by_id":[]},"load":{}})";
  EXPECT_TRUE(history_from_text(without_io));
  EXPECT_TRUE(history_from_text(history_to_text(History{})));
}

TEST(History, AnythingElseIsRefused) {
  const std::string good = history_to_text(example());
  // Cut anywhere, it is no history any more.
  for (std::size_t size = 0; size < good.size(); ++size)
    EXPECT_FALSE(history_from_text(std::string_view(good).substr(0, size))) << size;
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  for (const std::string& text :
       {replaced("[8191,6]", "[8192,6]"), replaced("[8191,6]", "[6]"),
        replaced("[8191,6]", "[1,2,3]"), replaced("[0,10,11,12,13,14]", "[0,10,11,12,13]"),
        replaced("[0,10,11,12,13,14]", "[0,10,11,12,13,1.5]"),
        replaced("[254,1,", "[4294967296,1,"), replaced("[254,1,", "[254,"),
        replaced("\"load1\":0.1", "\"load1\":-1"), replaced("\"load1\":0.1", "\"load1\":[]"),
        replaced("\"forks\":30", "\"forks\":-1")})
    EXPECT_FALSE(history_from_text(text)) << text;
}

TEST(History, KeptWithItsContainer) {
  Kept kept;
  kept.record.id = "caller-1";
  kept.record.cgroup_paths = {{"", "/with\ta tab\nand a line"}};
  kept.record.cgroup_inode = 7;
  kept.history = example();
  const std::string line = kept_to_line(kept);
  ASSERT_EQ(line.find('\n'), line.size() - 1);
  const auto back = kept_from_line(std::string_view(line).substr(0, line.size() - 1));
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(back->record.cgroup_paths, kept.record.cgroup_paths);
  EXPECT_EQ(back->record.cgroup_inode, 7U);
  EXPECT_EQ(kept_to_line(*back), line);
  for (const std::string& bad :
       {std::string(), std::string("{}"), std::string("{}\t{}"), line.substr(0, line.size() - 2)})
    EXPECT_FALSE(kept_from_line(bad)) << bad;
}

}  // namespace
}  // namespace umwelt::container
