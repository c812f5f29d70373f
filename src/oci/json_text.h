// SPDX-License-Identifier: Apache-2.0
// A JSON document that is edited as text: every byte that is not changed on purpose stays as it is,
// so numbers of any size, the order of keys, the layout and what this version knows nothing of
// survive.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace umwelt::oci {

struct JsonMember;

struct JsonValue {
  enum class Kind { kObject, kArray, kString, kOther };
  Kind kind = Kind::kOther;
  std::size_t begin = 0, end = 0;  // bytes of the document
  std::vector<JsonMember> members;
  std::vector<JsonValue> elements;
};
struct JsonMember {
  std::string key;        // without escapes
  std::size_t begin = 0;  // of the key
  JsonValue value;
};

class JsonText {
 public:
  // EINVAL (with the place) when it is no JSON, is nested deeper than kMaxDepth, or has an object
  // with a key twice: readers do not agree on which one counts.
  static constexpr unsigned kMaxDepth = 100;
  static Result<JsonText> parse(std::string text);

  const JsonValue& root() const { return root_; }
  std::string_view text(const JsonValue& value) const;       // as it is written
  Result<std::string> string(const JsonValue& value) const;  // EINVAL: not a string

  // nullptr when there is none. EINVAL when there is one that differs in case alone: Go takes it
  // for the same.
  Result<const JsonValue*> find(const JsonValue& object, std::string_view key) const;

  // Edits, which do not change what the functions above show. `json` is the text of one value. Laid
  // out as the neighbours are. After a removal no other edit of the same object.
  void set_member(const JsonValue& object, std::string_view key, std::string_view json);
  void remove_member(const JsonValue& object, std::string_view key);
  void append(const JsonValue& array, std::string_view json);
  void replace(const JsonValue& value, std::string_view json);

  std::string edited() const;

 private:
  struct Edit {
    std::size_t begin, end;
    std::string text;
  };
  void insert(const JsonValue& into, const std::vector<std::size_t>& begins,
              const std::vector<std::size_t>& ends, const std::string& text);

  std::string text_;
  JsonValue root_;
  std::vector<Edit> edits_;
};

// A JSON string, quoted.
std::string json_quote(std::string_view text);

}  // namespace umwelt::oci
