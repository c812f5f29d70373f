// SPDX-License-Identifier: Apache-2.0
#include "fusefs/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace umwelt::fusefs {
namespace {

TEST(ParseSettings, ReadsWhatIsSet) {
  const auto settings = parse_settings("log_level = 'debug'\nthreads = 3\n", "u.toml");
  ASSERT_TRUE(settings);
  EXPECT_EQ(settings->log_level, "debug");
  EXPECT_EQ(settings->threads, 3U);
  const auto empty = parse_settings("# nothing\n", "u.toml");
  ASSERT_TRUE(empty);
  EXPECT_FALSE(empty->log_level || empty->threads);
}

TEST(ParseSettings, SaysWhereItIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"\nthread = 3", "u.toml:2: unknown key 'thread'"},
      {"threads = 0", "u.toml:1: threads must be 1 to 64"},
      {"threads = -1", "threads must be"},
      {"threads = '4'", "threads must be"},
      {"threads = 9999999999999999999", "u.toml:1: "},
      {"log_level = 'loud'", "u.toml:1: log_level must be one of trace, debug"},
      {"log_level = 3", "log_level must be"},
      {"[threads]\na = 1", "threads must be"},
      {"threads =", "u.toml:1: "},
      {"\xff\xfe", "u.toml:1: "},
  };
  for (const auto& [text, message] : cases) {
    const auto settings = parse_settings(text, "u.toml");
    ASSERT_FALSE(settings) << text;
    EXPECT_THAT(settings.error().message(), testing::HasSubstr(message)) << text;
  }
}

}  // namespace
}  // namespace umwelt::fusefs
