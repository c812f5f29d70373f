// SPDX-License-Identifier: Apache-2.0
// Every parser of text that somebody else wrote, as a function of any bytes. A target is built
// twice: with libFuzzer (./dev fuzz), and into a unit test that feeds it its corpus.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace umwelt::fuzz {

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace umwelt::fuzz

// A property that holds for any input; unlike assert() it is there in every build.
#define FUZZ_CHECK(condition)                                                        \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                  \
    }                                                                                \
  } while (false)
