// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace umwelt::vdisk {

// SHA-256 of a whole file from its beginning, by Nettle, as 64 hexadecimal digits. The file's
// offset stays.
Result<std::string> sha256_of(
    int file,
    const std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)>& progress = {});

// "sha256:" and 64 lower-case hexadecimal digits.
bool valid_digest(std::string_view digest);

}  // namespace umwelt::vdisk
