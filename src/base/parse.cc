// SPDX-License-Identifier: Apache-2.0
#include "base/parse.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace umwelt {
namespace {

bool blank(char c) { return c == ' ' || c == '\t'; }

template <class T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

std::optional<std::string_view> next_line(std::string_view& rest) {
  if (rest.empty()) return std::nullopt;
  const std::size_t end = rest.find('\n');
  const std::string_view line = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return line;
}

std::string_view next_word(std::string_view& rest) {
  while (!rest.empty() && blank(rest.front())) rest.remove_prefix(1);
  std::size_t end = 0;
  while (end < rest.size() && !blank(rest[end])) ++end;
  const std::string_view word = rest.substr(0, end);
  rest.remove_prefix(end);
  return word;
}

std::string_view next_part(std::string_view& rest, char separator) {
  const std::size_t end = std::min(rest.find(separator), rest.size());
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return part;
}

std::string_view trim(std::string_view text) {
  const auto space = [](char c) { return blank(c) || c == '\n' || c == '\r'; };
  while (!text.empty() && space(text.front())) text.remove_prefix(1);
  while (!text.empty() && space(text.back())) text.remove_suffix(1);
  return text;
}

std::optional<std::uint64_t> parse_u64(std::string_view text) {
  return parse_number<std::uint64_t>(text);
}

std::optional<std::int64_t> parse_i64(std::string_view text) {
  return parse_number<std::int64_t>(text);
}

std::optional<double> parse_decimal(std::string_view text) {
  double value = 0;
  const auto [end, code] =
      std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  if (code != std::errc() || end != text.data() + text.size() || !std::isfinite(value))
    return std::nullopt;
  return value;
}

std::optional<std::uint64_t> parse_size(std::string_view text) {
  std::size_t digits = 0;
  while (digits < text.size() &&
         ((text[digits] >= '0' && text[digits] <= '9') || text[digits] == '.'))
    ++digits;
  const auto number = parse_decimal(text.substr(0, digits));
  if (!number) return std::nullopt;
  std::string_view unit = text.substr(digits);
  const auto lower = [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  unsigned shift = 0;
  if (!unit.empty()) {
    constexpr std::string_view kUnits = "bkmgt";
    const std::size_t power = kUnits.find(lower(unit.front()));
    if (power == std::string_view::npos) return std::nullopt;
    shift = static_cast<unsigned>(power) * 10;
    unit.remove_prefix(1);
    if (power > 0 && !unit.empty() && lower(unit.front()) == 'i') {
      unit.remove_prefix(1);
      if (unit.empty()) return std::nullopt;  // "10Gi" needs its b
    }
    if (power > 0 && !unit.empty() && lower(unit.front()) == 'b') unit.remove_prefix(1);
    if (!unit.empty()) return std::nullopt;
  }
  if (auto whole = parse_u64(text.substr(0, digits))) {
    if (*whole > (std::numeric_limits<std::uint64_t>::max() >> shift)) return std::nullopt;
    return *whole << shift;
  }
  const double bytes = *number * static_cast<double>(std::uint64_t{1} << shift);
  if (bytes >= 18446744073709551616.0) return std::nullopt;
  return static_cast<std::uint64_t>(bytes);
}

std::string unescape_octal(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const auto octal = [&](std::size_t i) { return text[i] >= '0' && text[i] <= '7'; };
    if (text.size() >= 4 && text[0] == '\\' && text[1] <= '3' && octal(1) && octal(2) && octal(3)) {
      out += static_cast<char>((text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0'));
      text.remove_prefix(4);
    } else {
      out += text.front();
      text.remove_prefix(1);
    }
  }
  return out;
}

}  // namespace umwelt
