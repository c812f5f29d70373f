// SPDX-License-Identifier: Apache-2.0
#include "base/parse.h"

#include <gtest/gtest.h>

namespace umwelt {
namespace {

TEST(Parse, PartsUpToASeparator) {
  std::string_view rest = "a::b";
  EXPECT_EQ(next_part(rest, ':'), "a");
  EXPECT_EQ(next_part(rest, ':'), "");
  EXPECT_EQ(next_part(rest, ':'), "b");
  EXPECT_EQ(rest, "");
  EXPECT_EQ(next_part(rest, ':'), "");
}

TEST(Parse, Sizes) {
  EXPECT_EQ(parse_size("0"), 0U);
  EXPECT_EQ(parse_size("123"), 123U);
  EXPECT_EQ(parse_size("1k"), 1024U);
  EXPECT_EQ(parse_size("256M"), 256U << 20);
  EXPECT_EQ(parse_size("256mb"), 256U << 20);
  EXPECT_EQ(parse_size("10GiB"), 10ULL << 30);
  EXPECT_EQ(parse_size("1.5g"), 3ULL << 29);
  EXPECT_EQ(parse_size("7b"), 7U);
  for (const char* text : {"", "m", "-1", "1x", "1 m", "nan", "inf", "1e9", "0x10", "1.2.3", "1mm",
                           "10Gi", "17179869184g", "1bb", "99999999999999999999", "1ib"})
    EXPECT_FALSE(parse_size(text)) << text;
}

TEST(Parse, Decimals) {
  EXPECT_EQ(parse_decimal("1.5"), 1.5);
  EXPECT_EQ(parse_decimal("-0.25"), -0.25);
  for (const char* text : {"", "nan", "inf", "1e9", "0x1", "1.5 ", "+1", "--1"})
    EXPECT_FALSE(parse_decimal(text)) << text;
}

TEST(Parse, LinesAndWords) {
  std::string_view rest = "a  b\tc\n\nlast";
  std::string_view line = *next_line(rest);
  EXPECT_EQ(next_word(line), "a");
  EXPECT_EQ(next_word(line), "b");
  EXPECT_EQ(next_word(line), "c");
  EXPECT_EQ(next_word(line), "");
  EXPECT_EQ(next_line(rest), "");
  EXPECT_EQ(next_line(rest), "last");
  EXPECT_EQ(next_line(rest), std::nullopt);
}

struct Pair {
  std::uint64_t file = 0, file_mapped = 0;
};
constexpr KeyedField<Pair> kPair[] = {{"file", &Pair::file}, {"file_mapped", &Pair::file_mapped}};

TEST(Parse, KeysAreWhole) {
  Pair pair;
  EXPECT_EQ(parse_keyed<Pair>("file_mapped 7\nfile 9\nfilet 1\nfile x\nfile", kPair, pair), 2U);
  EXPECT_EQ(pair.file, 9U);
  EXPECT_EQ(pair.file_mapped, 7U);
}

TEST(Parse, ArithmeticSaturates) {
  constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(saturating_sub(1, 2), 0U);
  EXPECT_EQ(saturating_add(kMax, 2), kMax);
  EXPECT_EQ(mul_div(kMax, kMax, kMax), kMax);
  EXPECT_EQ(mul_div(kMax, 2, 1), kMax);
  EXPECT_EQ(mul_div(10, 3, 4), 7U);
}

TEST(UnescapeOctal, OnlyWholeEscapes) {
  EXPECT_EQ(unescape_octal("/a\\040b\\134c"), "/a b\\c");
  EXPECT_EQ(unescape_octal("\\04 \\08\\400\\"), "\\04 \\08\\400\\");
}

}  // namespace
}  // namespace umwelt
