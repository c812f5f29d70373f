// SPDX-License-Identifier: Apache-2.0
#include "oci/choice.h"

#include <gtest/gtest.h>

namespace umwelt::oci {
namespace {

JsonText parsed(const std::string& text) { return JsonText::parse(text).value(); }

Result<void> read(const JsonText& config, Choice& choice) {
  return read_choice(config, nullptr, choice);
}

TEST(Choice, OfAnnotations) {
  Choice choice;
  ASSERT_TRUE(read(parsed(R"({"annotations":{"umwelt.views":"cpu,memory,cpu",
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
  ASSERT_TRUE(read(parsed(R"({"process":{"env":["PATH=/bin","umwelt=off",
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
      ASSERT_TRUE(read(parsed(start + rest), choice));
      EXPECT_EQ(choice.mode, mode) << key << rest;
    }
  }
}

TEST(Choice, RequiredSurvivesAnError) {
  Choice choice;
  EXPECT_FALSE(read(parsed(R"({"annotations":{"umwelt.views":"nonsense",
      "umwelt":"required"}})"),
                    choice));
  EXPECT_EQ(choice.mode, Mode::kRequired);
}

TEST(Choice, RequiredInTheEnvironmentSurvivesAnError) {
  for (const char* wrong :
       {"umwelt.views=nonsense", "umwelt.nonsense=1", R"(umwelt.views=\ud800)"}) {
    Choice choice;
    EXPECT_FALSE(
        read(parsed(std::string(R"({"process":{"env":[")") + wrong + R"(","umwelt=required"]}})"),
             choice))
        << wrong;
    EXPECT_EQ(choice.mode, Mode::kRequired) << wrong;
  }
  Choice choice;
  const JsonText docker = parsed(R"({"Config":{"Labels":{"umwelt":"nonsense"}}})");
  EXPECT_FALSE(read_choice(parsed(R"({"process":{"env":["umwelt=required"]}})"), &docker, choice));
  EXPECT_EQ(choice.mode, Mode::kRequired);
}

TEST(Choice, AnErrorNamesTheKey) {
  Choice choice;
  EXPECT_TRUE(apply_choice("umwelt.cpus", "1", choice).error().text.starts_with("umwelt.cpus is "));
  EXPECT_TRUE(apply_choice("umwelt", "1", choice).error().text.starts_with("umwelt=1 is "));
}

TEST(Choice, RefusesHostileValues) {
  for (const char* annotations :
       {R"({"umwelt":"OFF"})", R"({"umwelt":1})", R"({"umwelt.views":""})",
        R"({"umwelt.views":",,"})", R"({"umwelt.views":"cpu,../../etc"})",
        R"({"umwelt.cpu-ids":"0-1023\n"})", R"({"umwelt.root":"/"})", R"({"umwelt.":"x"})",
        R"({"umwelt.intercept":"yes"})"}) {
    Choice choice;
    EXPECT_FALSE(read(parsed(std::string(R"({"annotations":)") + annotations + "}"), choice))
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
  const JsonText docker =
      parsed(R"({"Name":"/web","Config":{"Labels":{"umwelt.views":"load","a":"b"}}})");
  ASSERT_TRUE(read_choice(parsed("{}"), &docker, choice));
  EXPECT_EQ(choice.views, std::vector<std::string>{"load"});
  EXPECT_EQ(*read_docker_name(docker), "web");
}

TEST(Choice, LabelsGoBeforeTheEnvironment) {
  Choice choice;
  const JsonText docker = parsed(R"({"Config":{"Labels":{"umwelt":"required",
      "umwelt.views":"load","umwelt.cpu-ids":"host","umwelt.intercept":"off"}}})");
  ASSERT_TRUE(read_choice(parsed(R"({"process":{"env":["umwelt=off","umwelt.views=io",
      "umwelt.cpu-ids=dense","umwelt.intercept=on","umwelt.uptime=host"]},
      "annotations":{"umwelt.views":"cpu"}})"),
                          &docker, choice));
  EXPECT_EQ(choice.mode, Mode::kRequired);
  EXPECT_EQ(choice.views, std::vector<std::string>{"cpu"});
  EXPECT_EQ(choice.policy.cpu_ids, view::CpuIds::kHost);
  EXPECT_FALSE(choice.intercept);
  EXPECT_EQ(choice.policy.uptime, view::UptimePolicy::kHost);
}

TEST(Choice, NothingOfAnImageOpensWhatIsRequired) {
  const char* labels = R"({"Config":{"Labels":{"umwelt":"required"}}})";
  const char* required = R"("annotations":{"umwelt":"required"})";
  for (const auto& [config, docker] : std::vector<std::pair<std::string, std::string>>{
           {R"({"process":{"env":["umwelt=off","umwelt.views=nonsense"]}})", labels},
           {R"({"process":{"env":["umwelt=nonsense"]}})", labels},
           {R"({"process":{"env":["umwelt=off","umwelt.views="]}})", labels},
           {R"({"annotations":{"umwelt":"nonsense"}})", labels},
           {std::string(R"({"process":{"env":["umwelt=off","umwelt="]},)") + required + "}", "{}"},
           {std::string("{") + required + "}", R"({"Config":{"Labels":{"umwelt":"nonsense"}}})"}}) {
    Choice choice;
    const JsonText file = parsed(docker);
    EXPECT_FALSE(read_choice(parsed(config), &file, choice)) << config << docker;
    EXPECT_EQ(choice.mode, Mode::kRequired) << config << docker;
  }
}

TEST(Choice, AKeyInAnotherCaseIsAnother) {
  Choice choice;
  const JsonText docker = parsed(R"({"Config":{"Labels":{"UMWELT":"x","umwelt":"required"}}})");
  ASSERT_TRUE(read_choice(
      parsed(R"({"annotations":{"IO.kubernetes.cri.container-type":"x","Umwelt":"off"}})"), &docker,
      choice));
  EXPECT_EQ(choice.mode, Mode::kRequired);
}

}  // namespace
}  // namespace umwelt::oci
