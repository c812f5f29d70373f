// SPDX-License-Identifier: Apache-2.0
#include "oci/json_text.h"

#include <gtest/gtest.h>

namespace umwelt::oci {
namespace {

JsonText parsed(const std::string& text) {
  auto json = JsonText::parse(text);
  EXPECT_TRUE(json) << (json ? "" : json.error().message());
  return json ? *json : JsonText();
}

TEST(JsonText, UneditedIsTheSame) {
  for (const char* text :
       {"{}", " {\t\"a\" : [ 1 , 2 ]\r\n} \n", "[]", "123456789012345678901234567890",
        R"({"big":18446744073709551616123,"e":1.0E+5,"u":"\u00e9\"\\"})"})
    EXPECT_EQ(parsed(text).edited(), text);
}

TEST(JsonText, RefusesWhatIsNoJson) {
  for (const char* text : {"", "{", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "[1,]", "{} x", "nul",
                           "01", "\"a", "{'a':1}", "\"a\nb\"", "// x\n{}", "{\"a\":1 \"b\":2}"})
    EXPECT_FALSE(JsonText::parse(text)) << text;
}

TEST(JsonText, RefusesAKeyTwice) {
  EXPECT_FALSE(JsonText::parse(R"({"a":1,"a":2})"));
  EXPECT_FALSE(JsonText::parse(R"({"x":{"hooks":1,"h\u006foks":2}})"));
}

TEST(JsonText, RefusesDepth) {
  const auto nested = [](unsigned depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_TRUE(JsonText::parse(nested(JsonText::kMaxDepth)));
  EXPECT_FALSE(JsonText::parse(nested(JsonText::kMaxDepth + 2)));
  EXPECT_FALSE(JsonText::parse(std::string(1000000, '[')));
}

TEST(JsonText, FindsByTheWholeKey) {
  const JsonText json = parsed(R"({"hook":1,"hooks":{"x":"\u0041b"}})");
  const JsonValue* hooks = json.find(json.root(), "hooks").value();
  ASSERT_NE(hooks, nullptr);
  EXPECT_EQ(json.string(*json.find(*hooks, "x").value()).value(), "Ab");
  EXPECT_EQ(json.find(json.root(), "missing").value(), nullptr);
}

TEST(JsonText, RefusesAKeyOfAnotherCase) {
  const JsonText json = parsed(R"({"Hooks":1})");
  EXPECT_FALSE(json.find(json.root(), "hooks"));
}

TEST(JsonText, SetsMembersInTheLayoutOfTheOthers) {
  JsonText json = parsed("{\n    \"a\": 1,\n    \"b\": 2\n}\n");
  json.set_member(json.root(), "c", "3");
  json.set_member(json.root(), "d", "4");
  json.set_member(json.root(), "a", "5");
  EXPECT_EQ(json.edited(), "{\n    \"a\": 5,\n    \"b\": 2,\n    \"c\": 3,\n    \"d\": 4\n}\n");
}

TEST(JsonText, SetsMembersOfCompactAndEmptyObjects) {
  JsonText json = parsed(R"({"a":1,"o":{ }})");
  const JsonValue& inner = json.root().members[1].value;
  json.set_member(inner, "x", "1");
  json.set_member(inner, "y", "2");
  json.set_member(json.root(), "b", "[]");
  EXPECT_EQ(json.edited(), R"({"a":1,"o":{"x":1,"y":2 },"b":[]})");
}

TEST(JsonText, Appends) {
  JsonText json = parsed(R"({"a":[],"b":[ 1, 2 ]})");
  json.append(json.root().members[0].value, "1");
  json.append(json.root().members[0].value, "2");
  json.append(json.root().members[1].value, "3");
  EXPECT_EQ(json.edited(), R"({"a":[1,2],"b":[ 1, 2, 3 ]})");
}

TEST(JsonText, Quotes) { EXPECT_EQ(json_quote("a\"b\\c\n"), R"("a\"b\\c\n")"); }

}  // namespace
}  // namespace umwelt::oci
