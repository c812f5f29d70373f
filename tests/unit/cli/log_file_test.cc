// SPDX-License-Identifier: Apache-2.0
#include "cli/log_file.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace umwelt::cli {
namespace {

class LogFileTest : public testing::Test {
 protected:
  void append(std::string_view text) {
    ASSERT_EQ(::pwrite(fd_.get(), text.data(), text.size(), size_),
              static_cast<ssize_t>(text.size()));
    size_ += static_cast<off_t>(text.size());
  }
  LogFile open() { return LogFile(UniqueFd(::dup(fd_.get()))); }
  static std::vector<std::string> rest(LogFile& log) {
    std::vector<std::string> lines;
    while (auto line = log.next().value()) lines.push_back(*line);
    return lines;
  }
  UniqueFd fd_{::memfd_create("log", MFD_CLOEXEC)};
  off_t size_ = 0;
};

using Lines = std::vector<std::string>;

TEST_F(LogFileTest, ALineComesWhenItIsWhole) {
  LogFile log = open();
  EXPECT_EQ(rest(log), Lines{});
  append("on");
  EXPECT_EQ(rest(log), Lines{});
  append("e\ntwo\nth");
  EXPECT_EQ(rest(log), (Lines{"one", "two"}));
  append("ree\n");
  EXPECT_EQ(rest(log), Lines{"three"});
}

TEST_F(LogFileTest, TailCountsLines) {
  append("1\n2\n3\n");
  for (std::uint64_t n = 0; n <= 4; ++n) {
    LogFile log = open();
    EXPECT_EQ(log.seek_tail(n), std::min<std::uint64_t>(n, 3));
    const Lines all = {"1", "2", "3"};
    EXPECT_EQ(rest(log),
              Lines(all.end() - static_cast<long>(std::min<std::uint64_t>(n, 3)), all.end()))
        << n;
  }
}

TEST_F(LogFileTest, TailOfALargeFileAndLongLines) {
  const std::string line(100000, 'x');
  for (int i = 0; i < 5; ++i) append(std::to_string(i) + line + "\n");
  LogFile log = open();
  ASSERT_TRUE(log.seek_tail(2));
  EXPECT_EQ(rest(log), (Lines{"3" + line, "4" + line}));
}

TEST_F(LogFileTest, TailThatBeginsAtABlockEnd) {
  append(std::string((64U << 10) - 1, 'a') + "\n");
  append(std::string((64U << 10) - 1, 'b') + "\n");
  LogFile log = open();
  ASSERT_TRUE(log.seek_tail(1));
  EXPECT_EQ(rest(log), Lines{std::string((64U << 10) - 1, 'b')});
}

class RotatedLogTest : public testing::Test {
 protected:
  RotatedLogTest() {
    std::string folder = testing::TempDir() + "logXXXXXX";
    path_ = std::string(::mkdtemp(folder.data())) + "/log";
  }
  ~RotatedLogTest() override { std::filesystem::remove_all(path_.substr(0, path_.rfind('/'))); }
  void append(std::string_view text) { std::ofstream(path_, std::ios::app) << text; }
  void rotate() { std::filesystem::rename(path_, path_ + ".1"); }
  static Lines rest(RotatedLog& log) {
    Lines lines;
    while (auto line = log.next().value()) lines.push_back(*line);
    return lines;
  }
  std::string path_;
};

TEST_F(RotatedLogTest, TheOlderPartComesFirst) {
  append("1\n2\n");
  rotate();
  append("3\n4\n");
  RotatedLog log = RotatedLog::open(path_).value();
  EXPECT_EQ(rest(log), (Lines{"1", "2", "3", "4"}));
  for (std::uint64_t n = 0; n <= 5; ++n) {
    RotatedLog tail = RotatedLog::open(path_).value();
    ASSERT_TRUE(tail.seek_tail(n));
    const Lines all = {"1", "2", "3", "4"};
    EXPECT_EQ(rest(tail),
              Lines(all.end() - static_cast<long>(std::min<std::uint64_t>(n, 4)), all.end()))
        << n;
  }
}

TEST_F(RotatedLogTest, FollowsACut) {
  append("1\n");
  RotatedLog log = RotatedLog::open(path_).value();
  EXPECT_EQ(rest(log), Lines{"1"});
  append("2\n");
  rotate();
  EXPECT_EQ(rest(log), Lines{"2"}) << "the new file is not there yet";
  append("3\n");
  EXPECT_EQ(rest(log), Lines{"3"});
}

TEST_F(RotatedLogTest, WithoutALog) { EXPECT_EQ(RotatedLog::open(path_).error().code, ENOENT); }

TEST(ParseLogLine, ReadsWhatTheLauncherWrites) {
  const auto entry =
      parse_log_line(R"({"log":"a\n","stream":"stderr","time":"2026-01-02T03:04:05.5Z"})");
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->text, "a\n");
  EXPECT_TRUE(entry->error_stream);
  EXPECT_EQ(entry->time, "2026-01-02T03:04:05.5Z");
  for (const char* line :
       {"", "{", "[]", "1", "null", R"({"log":1})", R"({"stream":"stdout"})", "\xff"})
    EXPECT_FALSE(parse_log_line(line)) << line;
}

TEST(ParseSince, TakesAgesAndTimes) {
  constexpr std::int64_t kNow = 1767323045;  // 2026-01-02T03:04:05Z
  EXPECT_EQ(parse_since("10m", kNow), kNow - 600);
  EXPECT_EQ(parse_since("1h30m", kNow), kNow - 5400);
  EXPECT_EQ(parse_since("90s", kNow), kNow - 90);
  EXPECT_EQ(parse_since("1767323045", kNow), kNow);
  EXPECT_EQ(parse_since("2026-01-02T03:04:05Z", kNow), kNow);
  EXPECT_EQ(parse_since("2026-01-02T03:04:05.123456789Z", kNow), kNow);
  EXPECT_TRUE(parse_since("2028-02-29", kNow));
  EXPECT_EQ(parse_since("2026-01-02", kNow), kNow - (3 * 3600 + 4 * 60 + 5));
  for (const char* text : {"", "m", "10x", "1h30", "yesterday", "2026-13-01", "-5m", "1e3s",
                           "2026-01-02T03:04", "2026-01-02T03:04:05+01:00", "99999999999999999999s",
                           "-1", "2026-02-30", "2026-02-29T12:00:00Z"})
    EXPECT_FALSE(parse_since(text, kNow)) << text;
}

}  // namespace
}  // namespace umwelt::cli
