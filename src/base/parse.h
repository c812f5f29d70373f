// SPDX-License-Identifier: Apache-2.0
// Parsing of kernel text. Only unescape_octal() allocates; views point into the argument.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace umwelt {

// Cuts the next line (without '\n') off `rest`; nullopt at the end.
std::optional<std::string_view> next_line(std::string_view& rest);

// Cuts the next word off `rest`, skipping blanks and tabs before it; empty at the end.
std::string_view next_word(std::string_view& rest);

// Cuts up to the next `separator`, which falls away, off `rest`; all of it where there is none.
std::string_view next_part(std::string_view& rest, char separator);

std::string_view trim(std::string_view text);

// The whole text must be a decimal number that fits; nullopt otherwise.
std::optional<std::uint64_t> parse_u64(std::string_view text);
std::optional<std::int64_t> parse_i64(std::string_view text);

// A finite, plain decimal number ("1.5", "-0.25"); no nan, inf, hex or exponent.
std::optional<double> parse_decimal(std::string_view text);

// A size as docker writes it: a whole or decimal number with an optional unit b, k, m, g, t
// (1024-based, any case, an optional trailing "b" or "ib" as in "10GiB"). nullopt on anything
// else, on overflow and on a negative number.
std::optional<std::uint64_t> parse_size(std::string_view text);

// A path as mountinfo and swaps write it: blanks, tabs, newlines and backslashes as \ooo
// (mangle_path in fs/seq_file.c). Other backslashes stay.
std::string unescape_octal(std::string_view text);

// One row of a table of keyed numbers ("inactive_file 4096"): the field a whole key goes to.
template <class T>
struct KeyedField {
  std::string_view key;
  std::uint64_t T::*field;
};

// Reads "KEY VALUE" lines; keys that the table lacks are passed over, values that are no number
// leave their field as it was. Returns how many fields were set.
template <class T>
unsigned parse_keyed(std::string_view text, std::span<const KeyedField<T>> table, T& out) {
  unsigned found = 0;
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    const std::string_view key = next_word(rest);
    for (const KeyedField<T>& row : table) {
      if (row.key != key) continue;
      if (auto value = parse_u64(next_word(rest))) {
        out.*row.field = *value;
        ++found;
      }
      break;
    }
  }
  return found;
}

constexpr std::uint64_t saturating_sub(std::uint64_t a, std::uint64_t b) {
  return a > b ? a - b : 0;
}
constexpr std::uint64_t saturating_add(std::uint64_t a, std::uint64_t b) {
  return a > std::numeric_limits<std::uint64_t>::max() - b
             ? std::numeric_limits<std::uint64_t>::max()
             : a + b;
}
// a * b / c without an overflow in between; saturates. c must not be 0.
constexpr std::uint64_t mul_div(std::uint64_t a, std::uint64_t b, std::uint64_t c) {
  __extension__ typedef unsigned __int128 Wide;
  const Wide value = static_cast<Wide>(a) * b / c;
  constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
  return value > kMax ? kMax : static_cast<std::uint64_t>(value);
}

}  // namespace umwelt
