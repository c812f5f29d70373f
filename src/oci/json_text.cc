// SPDX-License-Identifier: Apache-2.0
#include "oci/json_text.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

namespace umwelt::oci {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool equal_but_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

Result<std::string> decode(std::string_view quoted) {
  const std::string_view inside = quoted.substr(1, quoted.size() - 2);
  if (inside.find('\\') == std::string_view::npos) return std::string(inside);
  const auto value = nlohmann::json::parse(quoted, nullptr, false);
  if (!value.is_string()) return fail(EINVAL, "a string that is no JSON");
  return value.get<std::string>();
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<JsonValue> document() {
    JsonValue value = UMWELT_TRY(parse_value(0));
    skip_blanks();
    if (at_ != text_.size()) return wrong("something after the end");
    return value;
  }

 private:
  tl::unexpected<Error> wrong(const char* what) const {
    return fail(EINVAL, std::string("no JSON: ") + what + " at byte " + std::to_string(at_));
  }
  void skip_blanks() {
    while (at_ < text_.size() && is_blank(text_[at_])) ++at_;
  }
  bool take(char c) {
    skip_blanks();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  Result<JsonValue> parse_value(unsigned depth) {
    skip_blanks();
    if (at_ >= text_.size()) return wrong("nothing");
    if (depth > JsonText::kMaxDepth) return wrong("too deep");
    JsonValue value;
    value.begin = at_;
    switch (text_[at_]) {
      case '{':
        value.kind = JsonValue::Kind::kObject;
        UMWELT_CHECK(parse_object(value, depth));
        break;
      case '[':
        value.kind = JsonValue::Kind::kArray;
        UMWELT_CHECK(parse_array(value, depth));
        break;
      case '"':
        value.kind = JsonValue::Kind::kString;
        UMWELT_CHECK(parse_string());
        break;
      default:
        UMWELT_CHECK(parse_word());
    }
    value.end = at_;
    return value;
  }

  Result<void> parse_object(JsonValue& value, unsigned depth) {
    ++at_;
    std::set<std::string_view> keys;
    if (take('}')) return {};
    do {
      skip_blanks();
      JsonMember member;
      member.begin = at_;
      if (at_ >= text_.size() || text_[at_] != '"') return wrong("no key");
      UMWELT_CHECK(parse_string());
      member.key = UMWELT_TRY(decode(text_.substr(member.begin, at_ - member.begin)));
      if (!take(':')) return wrong("no colon");
      member.value = UMWELT_TRY(parse_value(depth + 1));
      value.members.push_back(std::move(member));
    } while (take(','));
    if (!take('}')) return wrong("no end of an object");
    for (const JsonMember& member : value.members)
      if (!keys.insert(member.key).second)
        return fail(EINVAL, "the key \"" + member.key + "\" is there twice");
    return {};
  }

  Result<void> parse_array(JsonValue& value, unsigned depth) {
    ++at_;
    if (take(']')) return {};
    do {
      value.elements.push_back(UMWELT_TRY(parse_value(depth + 1)));
    } while (take(','));
    if (!take(']')) return wrong("no end of an array");
    return {};
  }

  Result<void> parse_string() {
    for (++at_; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        return {};
      }
      if (static_cast<unsigned char>(c) < 0x20) return wrong("a control character");
      if (c == '\\') ++at_;
    }
    return wrong("no end of a string");
  }

  // A number, true, false or null.
  Result<void> parse_word() {
    const std::size_t begin = at_;
    while (at_ < text_.size() &&
           (std::strchr("+-.", text_[at_]) != nullptr || (text_[at_] >= '0' && text_[at_] <= '9') ||
            (lower(text_[at_]) >= 'a' && lower(text_[at_]) <= 'z')))
      ++at_;
    const std::string_view word = text_.substr(begin, at_ - begin);
    if (word.empty() || !nlohmann::json::accept(word)) {
      at_ = begin;
      return wrong("no value");
    }
    return {};
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

Result<JsonText> JsonText::parse(std::string text) {
  JsonText out;
  out.text_ = std::move(text);
  out.root_ = UMWELT_TRY(Parser(out.text_).document());
  return out;
}

std::string_view JsonText::text(const JsonValue& value) const {
  return std::string_view(text_).substr(value.begin, value.end - value.begin);
}

Result<std::string> JsonText::string(const JsonValue& value) const {
  if (value.kind != JsonValue::Kind::kString) return fail(EINVAL, "not a string");
  return decode(text(value));
}

Result<const JsonValue*> JsonText::find(const JsonValue& object, std::string_view key) const {
  const JsonValue* found = nullptr;
  for (const JsonMember& member : object.members) {
    if (member.key == key)
      found = &member.value;
    else if (equal_but_case(member.key, key))
      return fail(EINVAL, "the key \"" + member.key + "\" differs from \"" + std::string(key) +
                              "\" in case alone");
  }
  return found;
}

// Puts `text` after the last of the parts that `into` has, with the same blanks before it and, when
// it is the first one, none.
void JsonText::insert(const JsonValue& into, const std::vector<std::size_t>& begins,
                      const std::vector<std::size_t>& ends, const std::string& text) {
  const std::size_t at = ends.empty() ? into.begin + 1 : ends.back();
  const bool again = std::any_of(edits_.begin(), edits_.end(), [&](const Edit& edit) {
    return edit.begin == at && edit.end == at;
  });
  std::string blanks;
  if (!begins.empty()) {
    std::size_t begin = begins.back();
    while (begin > 0 && is_blank(text_[begin - 1])) --begin;
    blanks = text_.substr(begin, begins.back() - begin);
  }
  edits_.push_back({at, at, (ends.empty() && !again ? "" : ",") + blanks + text});
}

void JsonText::set_member(const JsonValue& object, std::string_view key, std::string_view json) {
  std::vector<std::size_t> begins, ends;
  for (const JsonMember& member : object.members) {
    if (member.key == key) return replace(member.value, json);
    begins.push_back(member.begin);
    ends.push_back(member.value.end);
  }
  bool spaced = false;
  if (!object.members.empty()) {
    const JsonMember& last = object.members.back();
    spaced = is_blank(text_[last.value.begin - 1]);
  }
  insert(object, begins, ends, json_quote(key) + (spaced ? ": " : ":") + std::string(json));
}

void JsonText::remove_member(const JsonValue& object, std::string_view key) {
  const auto& members = object.members;
  const auto found = std::find_if(members.begin(), members.end(),
                                  [&](const JsonMember& member) { return member.key == key; });
  if (found == members.end()) return;
  std::size_t begin = found->begin, end = found->value.end;
  if (found != members.begin())
    begin = std::prev(found)->value.end;
  else if (const auto next = std::next(found); next != members.end())
    end = next->begin;
  else
    std::tie(begin, end) = std::pair(object.begin + 1, object.end - 1);
  edits_.push_back({begin, end, ""});
}

void JsonText::append(const JsonValue& array, std::string_view json) {
  std::vector<std::size_t> begins, ends;
  for (const JsonValue& element : array.elements) {
    begins.push_back(element.begin);
    ends.push_back(element.end);
  }
  insert(array, begins, ends, std::string(json));
}

void JsonText::replace(const JsonValue& value, std::string_view json) {
  edits_.push_back({value.begin, value.end, std::string(json)});
}

std::string JsonText::edited() const {
  std::vector<Edit> edits = edits_;
  std::stable_sort(edits.begin(), edits.end(),
                   [](const Edit& a, const Edit& b) { return a.begin < b.begin; });
  std::string out;
  std::size_t done = 0;
  for (const Edit& edit : edits) {
    out.append(text_, done, edit.begin - done);
    out += edit.text;
    done = edit.end;
  }
  return out.append(text_, done, std::string::npos);
}

std::string json_quote(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace umwelt::oci
