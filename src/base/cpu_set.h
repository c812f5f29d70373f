// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace umwelt {

// A set of CPU (or NUMA node) ids, 0 to kMaxId. A plain value.
class CpuSet {
 public:
  static constexpr unsigned kMaxId = 8191;  // NR_CPUS of the largest x86-64 configuration

  CpuSet() = default;

  // {first, ..., last}
  static CpuSet range(unsigned first, unsigned last);

  // The kernel's list format (cpuset(7)): "0-3,5", also with strides "0-31:2/8", surrounding white
  // space and the empty set. nullopt on reversed ranges, on ids above kMaxId and on anything else.
  static std::optional<CpuSet> parse(std::string_view list);

  // The kernel's mask format, as mask() writes it; nullopt on anything else.
  static std::optional<CpuSet> parse_mask(std::string_view mask);

  void set(unsigned id);
  void clear(unsigned id);
  bool test(unsigned id) const;
  bool empty() const;
  unsigned count() const;
  std::optional<unsigned> last() const;  // the highest id
  std::vector<unsigned> ids() const;     // ascending
  CpuSet first(unsigned n) const;        // the n lowest ids
  bool contains(const CpuSet& other) const;

  std::string list() const;  // "0-3,5", "" when empty
  // The kernel's mask format: 32-bit hexadecimal words, the highest first, separated by commas,
  // for a bitmap of `bits` bits ("%*pb": the top word is as wide as it needs).
  std::string mask(unsigned bits) const;

  friend CpuSet operator&(const CpuSet& a, const CpuSet& b);
  friend CpuSet operator|(const CpuSet& a, const CpuSet& b);
  friend CpuSet operator-(const CpuSet& a, const CpuSet& b);
  friend bool operator==(const CpuSet& a, const CpuSet& b);

 private:
  void trim_words();  // no zero word at the end, so that == is simple
  std::vector<std::uint64_t> words_;
};

}  // namespace umwelt
