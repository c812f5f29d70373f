// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "container/record.h"
#include "targets.h"

int fuzz_container_record(const std::uint8_t* data, std::size_t size) {
  using namespace umwelt::container;
  const auto json = nlohmann::json::parse(umwelt::fuzz::text_of(data, size), nullptr, false);
  (void)policy_from_json(json);
  const auto record = record_from_json(json);
  if (!record) return 0;
  FUZZ_CHECK(valid_id(record->id));
  FUZZ_CHECK(record->init_pid >= 0);
  for (const auto& [controller, path] : record->cgroup_paths) {
    FUZZ_CHECK(path.starts_with('/'));
    FUZZ_CHECK((path + "/").find("/../") == std::string::npos);
  }
  // What is written is read back as the same.
  const auto again = record_from_json(to_json(*record));
  FUZZ_CHECK(again && to_json(*again) == to_json(*record));
  return 0;
}
