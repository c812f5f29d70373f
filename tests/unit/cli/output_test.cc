// SPDX-License-Identifier: Apache-2.0
#include "cli/output.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace umwelt::cli {
namespace {

TEST(HumanDuration, SpeaksAsDockerDoes) {
  EXPECT_EQ(human_duration(-5), "Less than a second");
  EXPECT_EQ(human_duration(0), "Less than a second");
  EXPECT_EQ(human_duration(1), "1 second");
  EXPECT_EQ(human_duration(59), "59 seconds");
  EXPECT_EQ(human_duration(60), "About a minute");
  EXPECT_EQ(human_duration(119), "About a minute");
  EXPECT_EQ(human_duration(180), "3 minutes");
  EXPECT_EQ(human_duration(59 * 60 + 59), "59 minutes");
  EXPECT_EQ(human_duration(3600), "About an hour");
  EXPECT_EQ(human_duration(2 * 3600), "2 hours");
  EXPECT_EQ(human_duration(47 * 3600), "47 hours");
  EXPECT_EQ(human_duration(48 * 3600), "2 days");
  EXPECT_EQ(human_duration(14 * 86400), "2 weeks");
  EXPECT_EQ(human_duration(60 * 86400), "2 months");
  EXPECT_EQ(human_duration(2LL * 365 * 86400), "2 years");
}

TEST(HumanSize, HasBinaryUnits) {
  EXPECT_EQ(human_size(0), "0B");
  EXPECT_EQ(human_size(999), "999B");
  EXPECT_EQ(human_size(1023), "1023B");
  EXPECT_EQ(human_size(1024), "1KiB");
  EXPECT_EQ(human_size(256ULL << 20), "256MiB");
  EXPECT_EQ(human_size(1536ULL << 20), "1.5GiB");
  EXPECT_EQ(human_size((1ULL << 30) - 1), "1023MiB");
  EXPECT_EQ(human_size(~0ULL), "16EiB");
}

TEST(Printable, LeavesNoWayIntoTheTerminal) {
  EXPECT_EQ(printable("plain"), "plain");
  EXPECT_EQ(printable("a\033[2Jb\r\n\tc\x7f"), "a?[2Jb???c?");
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m"),
            "??31m")
      << "CSI as one C1 character";
  EXPECT_EQ(printable("\x9b"
                      "31m"),
            "?31m");
  EXPECT_EQ(printable("\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\xa7"),
            "\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\xa7");
  EXPECT_EQ(printable("\xc3"), "?");
  EXPECT_EQ(printable(std::string_view("a\0b", 3)), "a?b");
}

TEST(Printable, CutsWholeCharacters) {
  EXPECT_EQ(printable("abcdef", 6), "abcdef");
  EXPECT_EQ(printable("abcdefg", 6), "abc...");
  EXPECT_EQ(printable("\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4", 4), "\xc3\xa4...");
  EXPECT_EQ(printable("abc", 2), "..");
}

TEST(JsonText, LeavesNoWayIntoTheTerminal) {
  const nlohmann::json json = "a\033b\x7f\xc2\x9b\xc2\xa0\xc3\x9b\xffz";
  EXPECT_EQ(json_text(json), "\"a\\u001bb\\u007f\\u009b\xc2\xa0\xc3\x9b\xef\xbf\xbdz\"\n");
  EXPECT_EQ(json_text({{"a", 1}}, 2), "{\n  \"a\": 1\n}\n");
}

TEST(Table, AlignsByTheWidestCell) {
  Table table({{"NAME"}, {"SIZE", true}, {"END"}});
  table.add({"a", "1", "x"});
  table.add({"a-very-long-name", "1024", ""});
  EXPECT_EQ(table.render(false),
            "NAME              SIZE  END\n"
            "a                    1  x\n"
            "a-very-long-name  1024  \n");
}

TEST(Table, CountsCharactersAndNotColours) {
  Table table({{"NAME"}, {"STATUS"}, {"X"}});
  table.add({"\xc3\xa4", {"Up", Colour::kGreen}, "1"});
  EXPECT_EQ(table.render(true),
            "NAME  STATUS  X\n"
            "\xc3\xa4     \033[32mUp\033[0m      1\n");
  EXPECT_EQ(table.render(false),
            "NAME  STATUS  X\n"
            "\xc3\xa4     Up      1\n");
}

TEST(UtcTime, IsEmptyForNever) {
  EXPECT_EQ(utc_time(0), "");
  EXPECT_EQ(utc_time(1767323045), "2026-01-02T03:04:05Z");
}

}  // namespace
}  // namespace umwelt::cli
