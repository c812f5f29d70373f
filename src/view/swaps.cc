// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <iterator>

#include "base/parse.h"
#include "view/files.h"

namespace umwelt::view {
namespace {

// seq_file_path(swap, file, " \t\n\\"): those characters as octal escapes.
std::string escaped(std::string_view filename) {
  std::string text;
  for (const char c : filename) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\\')
      fmt::format_to(std::back_inserter(text), "\\{:03o}", static_cast<unsigned>(c));
    else
      text += c;
  }
  return text;
}

// The layout of swap_show() in mm/swapfile.c, of any width of the numbers.
void append_line(std::string& text, std::string_view filename, std::string_view type,
                 std::uint64_t size_bytes, std::uint64_t used_bytes, std::int64_t priority) {
  const std::uint64_t size_kib = size_bytes / 1024, used_kib = used_bytes / 1024;
  fmt::format_to(std::back_inserter(text), "{:<39} {}{}\t{}{}\t{}{}\t{}\n", filename, type,
                 type.size() < 8 ? "\t" : "", size_kib, size_kib < 10'000'000 ? "\t" : "", used_kib,
                 used_kib < 10'000'000 ? "\t" : "", priority);
}

}  // namespace

std::string render_swaps(const Resources& r) {
  std::string text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
  const Memory& memory = r.memory;
  if (memory.swap_limited) {
    if (memory.swap_total > 0)
      append_line(text, "none", "virtual", memory.swap_total,
                  saturating_sub(memory.swap_total, memory.swap_free), 0);
  } else if (r.host.swaps) {
    for (const host::Swap& swap : *r.host.swaps)
      append_line(text, escaped(swap.filename), swap.type, swap.size_bytes, swap.used_bytes,
                  swap.priority);
  }
  return text;
}

}  // namespace umwelt::view
