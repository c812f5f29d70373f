// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cmath>
#include <string>

#include "base/parse.h"
#include "targets.h"

namespace {
struct Numbers {
  std::uint64_t cache = 0, rss = 0;
};
}  // namespace

int fuzz_base_parse(const std::uint8_t* data, std::size_t size) {
  using namespace umwelt;
  const std::string_view text = fuzz::text_of(data, size);

  if (const auto number = parse_u64(text)) FUZZ_CHECK(parse_u64(std::to_string(*number)) == number);
  if (const auto number = parse_i64(text)) FUZZ_CHECK(parse_i64(std::to_string(*number)) == number);
  if (const auto number = parse_decimal(text)) FUZZ_CHECK(std::isfinite(*number));
  if (const auto bytes = parse_u64(text)) FUZZ_CHECK(parse_size(text) == bytes);
  parse_size(text);
  FUZZ_CHECK(trim(trim(text)) == trim(text));

  std::size_t line_bytes = 0;
  std::string_view rest = text;
  while (auto line = next_line(rest)) {
    line_bytes += line->size();
    std::string_view words = *line;
    while (!next_word(words).empty()) {
    }
    FUZZ_CHECK(words.empty());
  }
  FUZZ_CHECK(line_bytes <= text.size());

  constexpr std::array<KeyedField<Numbers>, 2> kTable{
      {{"cache", &Numbers::cache}, {"rss", &Numbers::rss}}};
  Numbers numbers;
  parse_keyed<Numbers>(text, kTable, numbers);
  return 0;
}
