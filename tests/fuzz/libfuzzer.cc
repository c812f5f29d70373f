// SPDX-License-Identifier: Apache-2.0
// libFuzzer's entry to the one target that UMWELT_FUZZ_TARGET names.
#include <cstddef>
#include <cstdint>

int UMWELT_FUZZ_TARGET(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return UMWELT_FUZZ_TARGET(data, size);
}
