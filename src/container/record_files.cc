// SPDX-License-Identifier: Apache-2.0
#include "container/record_files.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace umwelt::container {

constexpr std::size_t kMaxRecordBytes = 1U << 20;

Result<void> write_state(const std::string& path, const std::string& text) {
  return replace_file(path, text, 0600, /*durable=*/false);
}

Result<Record> read_record(const std::string& file) {
  const std::string text = UMWELT_TRY(read_file(file, kMaxRecordBytes));
  return record_from_json(nlohmann::json::parse(text, nullptr, false));
}

std::string beside(const std::string& file, const char* suffix) {
  return std::filesystem::path(file).replace_extension(suffix);
}

}  // namespace umwelt::container
