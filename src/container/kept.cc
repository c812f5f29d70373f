// SPDX-License-Identifier: Apache-2.0
#include "container/kept.h"

#include <nlohmann/json.hpp>

namespace umwelt::container {

using nlohmann::json;

// JSON has no tab outside of its strings as it is written here, and none in them.
constexpr char kBetween = '\t';

std::string kept_to_line(const Kept& kept) {
  // A path that is not UTF-8 becomes another one, which no cgroup has.
  const std::string record =
      to_json(kept.record).dump(-1, ' ', false, json::error_handler_t::replace);
  return record + kBetween + history_to_text(kept.history) + '\n';
}

Result<Kept> kept_from_line(std::string_view line) {
  const std::size_t split = line.find(kBetween);
  if (split == std::string_view::npos) return fail(EINVAL, "a kept container lacks its history");
  const json record = json::parse(line.substr(0, split), nullptr, false);
  Kept kept;
  kept.record = UMWELT_TRY(record_from_json(record));
  kept.history = UMWELT_TRY(history_from_text(line.substr(split + 1)));
  return kept;
}

}  // namespace umwelt::container
