// SPDX-License-Identifier: Apache-2.0
#include "base/cpu_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "base/parse.h"

namespace umwelt {
namespace {

constexpr unsigned kBits = 64;

// "first[-last[:used/group]]"
bool parse_range(std::string_view part, CpuSet& out) {
  const std::size_t colon = part.find(':');
  const std::string_view range = part.substr(0, colon);
  const std::size_t dash = range.find('-');
  const auto first = parse_u64(range.substr(0, dash));
  const auto last = dash == std::string_view::npos ? first : parse_u64(range.substr(dash + 1));
  if (!first || !last || *first > *last || *last > CpuSet::kMaxId) return false;
  std::uint64_t used = 1;
  std::uint64_t group = 1;
  if (colon != std::string_view::npos) {
    const std::string_view stride = part.substr(colon + 1);
    const std::size_t slash = stride.find('/');
    if (dash == std::string_view::npos || slash == std::string_view::npos) return false;
    const auto u = parse_u64(stride.substr(0, slash));
    const auto g = parse_u64(stride.substr(slash + 1));
    if (!u || !g || *u == 0 || *g == 0 || *u > *g) return false;
    used = *u;
    group = *g;
  }
  for (std::uint64_t id = *first; id <= *last; ++id) {
    if ((id - *first) % group < used) out.set(static_cast<unsigned>(id));
  }
  return true;
}

}  // namespace

CpuSet CpuSet::range(unsigned first, unsigned last) {
  CpuSet result;
  for (unsigned id = first; id <= last && id <= kMaxId; ++id) result.set(id);
  return result;
}

std::optional<CpuSet> CpuSet::parse(std::string_view list) {
  list = trim(list);
  CpuSet result;
  while (!list.empty()) {
    const std::size_t comma = list.find(',');
    if (!parse_range(list.substr(0, comma), result)) return std::nullopt;
    if (comma == std::string_view::npos) return result;
    list.remove_prefix(comma + 1);
    if (list.empty()) return std::nullopt;
  }
  return result;
}

void CpuSet::set(unsigned id) {
  if (id > kMaxId) return;
  if (words_.size() <= id / kBits) words_.resize(id / kBits + 1);
  words_[id / kBits] |= std::uint64_t{1} << (id % kBits);
}

void CpuSet::clear(unsigned id) {
  if (id / kBits >= words_.size()) return;
  words_[id / kBits] &= ~(std::uint64_t{1} << (id % kBits));
  trim_words();
}

bool CpuSet::test(unsigned id) const {
  return id / kBits < words_.size() && ((words_[id / kBits] >> (id % kBits)) & 1U) != 0;
}

bool CpuSet::empty() const { return words_.empty(); }

unsigned CpuSet::count() const {
  unsigned total = 0;
  for (std::uint64_t word : words_) total += static_cast<unsigned>(std::popcount(word));
  return total;
}

std::optional<unsigned> CpuSet::last() const {
  if (words_.empty()) return std::nullopt;
  return static_cast<unsigned>(words_.size()) * kBits - 1 -
         static_cast<unsigned>(std::countl_zero(words_.back()));
}

std::vector<unsigned> CpuSet::ids() const {
  std::vector<unsigned> result;
  for (std::size_t i = 0; i < words_.size(); ++i) {
    for (std::uint64_t word = words_[i]; word != 0; word &= word - 1)
      result.push_back(static_cast<unsigned>(i) * kBits +
                       static_cast<unsigned>(std::countr_zero(word)));
  }
  return result;
}

CpuSet CpuSet::first(unsigned n) const {
  CpuSet result;
  for (unsigned id : ids()) {
    if (n-- == 0) break;
    result.set(id);
  }
  return result;
}

bool CpuSet::contains(const CpuSet& other) const { return (other - *this).empty(); }

std::string CpuSet::list() const {
  std::string text;
  const std::vector<unsigned> all = ids();
  for (std::size_t i = 0; i < all.size();) {
    std::size_t j = i;
    while (j + 1 < all.size() && all[j + 1] == all[j] + 1) ++j;
    if (!text.empty()) text += ',';
    text += i == j ? fmt::format("{}", all[i]) : fmt::format("{}-{}", all[i], all[j]);
    i = j + 1;
  }
  return text;
}

std::optional<CpuSet> CpuSet::parse_mask(std::string_view mask) {
  CpuSet set;
  unsigned id = 0;
  for (auto c = mask.rbegin(); c != mask.rend(); ++c) {
    if (*c == ',') continue;
    const std::size_t digit = std::string_view("0123456789abcdef").find(*c);
    if (digit == std::string_view::npos || id + 3 > kMaxId) return std::nullopt;
    for (unsigned bit = 0; bit < 4; ++bit, ++id)
      if ((digit >> bit & 1U) != 0) set.set(id);
  }
  if (id == 0) return std::nullopt;
  return set;
}

std::string CpuSet::mask(unsigned bits) const {
  std::string text;
  bits = std::max(bits, 1U);
  for (unsigned word = (bits + 31) / 32; word-- > 0;) {
    const unsigned width = word == (bits - 1) / 32 ? (bits - word * 32 + 3) / 4 : 8;
    std::uint64_t value = word / 2 < words_.size() ? words_[word / 2] : 0;
    value = (value >> (word % 2 * 32)) & 0xffffffffU;
    if (!text.empty()) text += ',';
    text += fmt::format("{:0{}x}", value, width);
  }
  return text;
}

void CpuSet::trim_words() {
  while (!words_.empty() && words_.back() == 0) words_.pop_back();
}

CpuSet operator&(const CpuSet& a, const CpuSet& b) {
  CpuSet result;
  result.words_.resize(std::min(a.words_.size(), b.words_.size()));
  for (std::size_t i = 0; i < result.words_.size(); ++i)
    result.words_[i] = a.words_[i] & b.words_[i];
  result.trim_words();
  return result;
}

CpuSet operator|(const CpuSet& a, const CpuSet& b) {
  CpuSet result = a.words_.size() >= b.words_.size() ? a : b;
  const CpuSet& other = a.words_.size() >= b.words_.size() ? b : a;
  for (std::size_t i = 0; i < other.words_.size(); ++i) result.words_[i] |= other.words_[i];
  return result;
}

CpuSet operator-(const CpuSet& a, const CpuSet& b) {
  CpuSet result = a;
  for (std::size_t i = 0; i < std::min(a.words_.size(), b.words_.size()); ++i)
    result.words_[i] &= ~b.words_[i];
  result.trim_words();
  return result;
}

bool operator==(const CpuSet& a, const CpuSet& b) { return a.words_ == b.words_; }

}  // namespace umwelt
