// SPDX-License-Identifier: Apache-2.0
#include "oci/choice.h"

#include <gtest/gtest.h>

namespace umwelt::oci {
namespace {

JsonText parsed(const std::string& text) { return JsonText::parse(text).value(); }

TEST(Choice, OfAnnotations) {
  Choice choice;
  ASSERT_TRUE(read_choice(parsed(R"({"annotations":{"umwelt.views":"cpu,memory,cpu",
      "umwelt.cpu-ids":"host","umwelt.cpu-policy":"floor","umwelt.uptime":"host",
      "umwelt.intercept":"off","org.other":"x","umweltlich":"y"}})"),
                          choice));
  EXPECT_EQ(choice.mode, Mode::kOn);
  EXPECT_EQ(choice.views, (std::vector<std::string>{"cpu", "memory"}));
  EXPECT_EQ(choice.policy.cpu_ids, view::CpuIds::kHost);
  EXPECT_EQ(choice.policy.cpu_policy, view::CpuPolicy::kFloor);
  EXPECT_EQ(choice.policy.uptime, view::UptimePolicy::kHost);
  EXPECT_FALSE(choice.intercept);
}

TEST(Choice, AnnotationsGoBeforeTheEnvironment) {
  Choice choice;
  ASSERT_TRUE(read_choice(parsed(R"({"process":{"env":["PATH=/bin","umwelt=off",
      "umwelt.views=io"]},"annotations":{"umwelt":"required"}})"),
                          choice));
  EXPECT_EQ(choice.mode, Mode::kRequired);
  EXPECT_EQ(choice.views, std::vector<std::string>{"io"});
}

TEST(Choice, TheSandboxOfAPodIsLeftOut) {
  for (const char* key :
       {"io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"}) {
    const std::string start = std::string(R"({"annotations":{")") + key + R"(":")";
    for (const auto& [rest, mode] : std::vector<std::pair<std::string, Mode>>{
             {R"(sandbox"}})", Mode::kOff},
             {R"(container"}})", Mode::kOn},
             {R"(sandbox","umwelt":"on"}})", Mode::kOn},
             {R"(sandbox","umwelt":"required"}})", Mode::kRequired}}) {
      Choice choice;
      ASSERT_TRUE(read_choice(parsed(start + rest), choice));
      EXPECT_EQ(choice.mode, mode) << key << rest;
    }
  }
}

TEST(Choice, RequiredSurvivesAnError) {
  Choice choice;
  EXPECT_FALSE(read_choice(parsed(R"({"annotations":{"umwelt.views":"nonsense",
      "umwelt":"required"}})"),
                           choice));
  EXPECT_EQ(choice.mode, Mode::kRequired);
}

TEST(Choice, RefusesHostileValues) {
  for (const char* annotations :
       {R"({"umwelt":"OFF"})", R"({"umwelt":1})", R"({"umwelt.views":""})",
        R"({"umwelt.views":",,"})", R"({"umwelt.views":"cpu,../../etc"})",
        R"({"umwelt.cpu-ids":"0-1023\n"})", R"({"umwelt.root":"/"})", R"({"umwelt.":"x"})",
        R"({"umwelt.intercept":"yes"})"}) {
    Choice choice;
    EXPECT_FALSE(read_choice(parsed(std::string(R"({"annotations":)") + annotations + "}"), choice))
        << annotations;
  }
}

TEST(Choice, AnErrorHasNoControlCharacters) {
  Choice choice;
  const auto done = apply_choice("umwelt", "\x1b[31m\n", choice);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().text.find('\x1b'), std::string::npos);
  EXPECT_EQ(done.error().text.find('\n'), std::string::npos);
}

TEST(Choice, OfDockersLabels) {
  Choice choice;
  std::string name;
  ASSERT_TRUE(read_docker_labels(
      parsed(R"({"Name":"/web","Config":{"Labels":{"umwelt.views":"load","a":"b"}}})"), choice,
      name));
  EXPECT_EQ(name, "web");
  EXPECT_EQ(choice.views, std::vector<std::string>{"load"});
}

}  // namespace
}  // namespace umwelt::oci
