// SPDX-License-Identifier: Apache-2.0
// The files of the registry: a record, and beside it what else is known of that container.
#pragma once

#include <string>

#include "base/result.h"
#include "container/record.h"

namespace umwelt::container {

inline constexpr const char* kRecordSuffix = ".json";
inline constexpr const char* kHistorySuffix = ".history";

// As a whole or not at all; not synced: no container outlives a crash of the machine.
Result<void> write_state(const std::string& path, const std::string& text);
// EINVAL: something else is in it.
Result<Record> read_record(const std::string& file);
// The path with another suffix.
std::string beside(const std::string& file, const char* suffix);

}  // namespace umwelt::container
