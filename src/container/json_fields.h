// SPDX-License-Identifier: Apache-2.0
// Typed fields of a JSON object that somebody else wrote. No function here throws; an absent or
// null field keeps the value it had, one of the wrong type or out of range is EINVAL and named.
#pragma once

#include <concepts>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"

namespace umwelt::container {

// nullptr when the field is absent or null.
inline const nlohmann::json* find_field(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

inline tl::unexpected<Error> bad_field(const char* key, const char* expected) {
  return fail(EINVAL, std::string("\"") + key + "\" must be " + expected);
}

template <std::integral T>
requires(!std::same_as<T, bool>) Result<void> read_field(const nlohmann::json& object,
                                                         const char* key, T& out) {
  const nlohmann::json* field = find_field(object, key);
  if (field == nullptr) return {};
  if (field->is_number_unsigned()) {
    const std::uint64_t value = field->get<std::uint64_t>();
    if (!std::in_range<T>(value)) return bad_field(key, "a number that fits");
    out = static_cast<T>(value);
  } else if (field->is_number_integer()) {
    const std::int64_t value = field->get<std::int64_t>();
    if (!std::in_range<T>(value)) return bad_field(key, "a number that fits");
    out = static_cast<T>(value);
  } else {
    return bad_field(key, "a whole number");
  }
  return {};
}

inline Result<void> read_field(const nlohmann::json& object, const char* key, bool& out) {
  const nlohmann::json* field = find_field(object, key);
  if (field == nullptr) return {};
  if (!field->is_boolean()) return bad_field(key, "true or false");
  out = field->get<bool>();
  return {};
}

inline Result<void> read_field(const nlohmann::json& object, const char* key, double& out) {
  const nlohmann::json* field = find_field(object, key);
  if (field == nullptr) return {};
  if (!field->is_number()) return bad_field(key, "a number");
  out = field->get<double>();
  return {};
}

inline Result<void> read_field(const nlohmann::json& object, const char* key, std::string& out) {
  const nlohmann::json* field = find_field(object, key);
  if (field == nullptr) return {};
  if (!field->is_string()) return bad_field(key, "a string");
  out = field->get_ref<const std::string&>();
  return {};
}

}  // namespace umwelt::container
