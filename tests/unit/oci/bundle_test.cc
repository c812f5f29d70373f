// SPDX-License-Identifier: Apache-2.0
#include "oci/bundle.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace umwelt::oci {
namespace {

using nlohmann::json;

Additions additions() {
  Additions out;
  out.hook = {"/usr/bin/umwelt-runtime", "oci-hook"};
  out.container_id = "web";
  out.syscalls = {"sysinfo", "sched_getaffinity"};
  return out;
}

std::string edit(const std::string& text, const Additions& with) {
  const auto edited = add_to_config(JsonText::parse(text).value(), with);
  EXPECT_TRUE(edited) << (edited ? "" : edited.error().message());
  return edited.value_or("");
}

TEST(Bundle, AddsHooksAndKeepsTheRest) {
  const std::string text = "{\"x\":18446744073709551616999,\n \"ociVersion\": \"1.0\"}";
  const std::string edited = edit(text, additions());
  EXPECT_TRUE(edited.starts_with("{\"x\":18446744073709551616999,\n \"ociVersion\": \"1.0\","));
  const json config = json::parse(edited);
  for (const char* stage : {"createRuntime", "poststop"})
    EXPECT_EQ(config["hooks"][stage], json::parse(R"([{"path":"/usr/bin/umwelt-runtime","args":[
                  "/usr/bin/umwelt-runtime","oci-hook",")" +
                                                  std::string(stage) + "\"]}]"));
}

TEST(Bundle, ComesAfterHooksThatAreThere) {
  const std::string text = R"({"hooks":{"prestart":[],"createRuntime":[{"path":"/other"}]}})";
  const json config = json::parse(edit(text, additions()));
  EXPECT_EQ(config["hooks"]["createRuntime"][0]["path"], "/other");
  EXPECT_EQ(config["hooks"]["createRuntime"][1]["path"], "/usr/bin/umwelt-runtime");
  EXPECT_EQ(config["hooks"]["poststop"].size(), 1U);
  EXPECT_EQ(config["hooks"]["prestart"], json::array());
}

TEST(Bundle, WhatIsNoObjectStaysAsItIs) {
  Additions with = additions();
  with.seccomp_listener = with.former_listener = "/run/umwelt/seccomp.sock";
  for (const char* kernel : {"null", "[]", "7"}) {
    const json config =
        json::parse(edit(std::string(R"({"linux":)") + kernel + R"(,"hooks":null})", with));
    EXPECT_EQ(config["linux"], json::parse(kernel));
    EXPECT_EQ(config["hooks"]["poststop"].size(), 1U);
  }
}

TEST(Bundle, AgainIsTheSame) {
  Additions with = additions();
  with.seccomp_listener = with.former_listener = "/run/umwelt/seccomp.sock";
  const std::string once = edit(R"({"linux":{"namespaces":[{"type":"pid"}]}})", with);
  EXPECT_EQ(edit(once, with), once);
}

TEST(Bundle, NotifiedSyscallsAreTakenOutOfTheirRules) {
  Additions with = additions();
  with.seccomp_listener = "/s";
  const json config =
      json::parse(edit(R"({"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
      {"names":["read","sysinfo","write","sched_getaffinity"],"action":"SCMP_ACT_ALLOW"}]}}})",
                       with));
  const json& seccomp = config["linux"]["seccomp"];
  EXPECT_EQ(seccomp["syscalls"][0]["names"], json({"read", "write"}));
  EXPECT_EQ(seccomp["syscalls"][1],
            json::parse(R"({"names":["sysinfo","sched_getaffinity"],"action":"SCMP_ACT_NOTIFY"})"));
  EXPECT_EQ(seccomp["listenerPath"], "/s");
  EXPECT_EQ(seccomp["listenerMetadata"], "web");
}

std::string profile(const std::string& rest, const std::string& action = "SCMP_ACT_ERRNO") {
  return R"({"linux":{"seccomp":{"defaultAction":")" + action + R"(",)" + rest + "}}}";
}

std::string rules(const std::string& list, const std::string& action = "SCMP_ACT_ERRNO") {
  return profile(R"("syscalls":[)" + list + "]", action);
}

Additions listening() {
  Additions out = additions();
  out.seccomp_listener = out.former_listener = "/s";
  return out;
}

TEST(Bundle, WhatAProfileDeniesStaysDenied) {
  for (
      const char* denial :
      {R"({"names":["sysinfo","read"],"action":"SCMP_ACT_ERRNO","errnoRet":1})",
       R"({"names":["sysinfo"],"action":"SCMP_ACT_KILL_PROCESS"})",
       R"({"names":["sysinfo"],"action":"SCMP_ACT_TRACE"})",
       R"({"names":["sysinfo"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]})",
       R"({"names":["sysinfo"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]})"}) {
    const json seccomp =
        json::parse(edit(rules(denial, "SCMP_ACT_ALLOW"), listening()))["linux"]["seccomp"];
    ASSERT_EQ(seccomp["syscalls"].size(), 2U) << seccomp;
    EXPECT_EQ(seccomp["syscalls"][0], json::parse(denial));
    EXPECT_EQ(seccomp["syscalls"][1]["names"], json({"sched_getaffinity"}));
    EXPECT_EQ(seccomp["syscalls"][1]["action"], "SCMP_ACT_NOTIFY");
  }
}

TEST(Bundle, ADenialGoesBeforeAPermissionOfTheSame) {
  const char* allow = R"({"names":["sysinfo","sched_getaffinity"],"action":"SCMP_ACT_ALLOW"})";
  const char* deny = R"({"names":["sysinfo"],"action":"SCMP_ACT_ERRNO"})";
  const json list = json::parse(
      edit(rules(std::string(allow) + "," + deny), listening()))["linux"]["seccomp"]["syscalls"];
  EXPECT_EQ(list[0]["names"], json({"sysinfo"}));
  EXPECT_EQ(list[0]["action"], "SCMP_ACT_ALLOW");
  EXPECT_EQ(list[1], json::parse(deny));
  EXPECT_EQ(list[2]["names"], json({"sched_getaffinity"}));
}

TEST(Bundle, WhatNoRuleAllowsIsNotNotifiedWhereTheDefaultDenies) {
  const std::string text =
      rules(R"({"names":["read","sched_getaffinity"],"action":"SCMP_ACT_LOG","args":[]})");
  const json seccomp = json::parse(edit(text, listening()))["linux"]["seccomp"];
  EXPECT_EQ(seccomp["syscalls"][0]["names"], json({"read"}));
  EXPECT_EQ(seccomp["syscalls"][1]["names"], json({"sched_getaffinity"}));
  const std::string none = rules(R"({"names":["read"],"action":"SCMP_ACT_ALLOW"})");
  for (const std::string& profile : {none, profile(R"("syscalls":null)"), rules("")})
    EXPECT_EQ(json::parse(edit(profile, listening()))["linux"], json::parse(profile)["linux"]);
}

TEST(Bundle, OneRuleForEachSyscall) {
  const std::string text = rules(
      R"({"names":["read"],"action":"SCMP_ACT_ALLOW"},{"names":["sysinfo"],"action":"SCMP_ACT_ALLOW"},
         {"names":["sched_getaffinity"],"action":"SCMP_ACT_ALLOW"})");
  const std::string edited = edit(text, listening());
  json expected = json::parse(text)["linux"]["seccomp"]["syscalls"];
  expected[1]["action"] = expected[2]["action"] = "SCMP_ACT_NOTIFY";
  EXPECT_EQ(json::parse(edited)["linux"]["seccomp"]["syscalls"], expected);
  EXPECT_EQ(edit(edited, listening()), edited);
  Additions more = listening();
  more.syscalls.emplace_back("getcpu");
  EXPECT_EQ(
      json::parse(edit(rules(R"({"names":["sysinfo"],"action":"SCMP_ACT_ALLOW"})", "SCMP_ACT_LOG"),
                       more))["linux"]["seccomp"]["syscalls"][1]["names"],
      json({"sched_getaffinity", "getcpu"}));
}

TEST(Bundle, NoListenerWhereCrunCouldNotStart) {
  const std::string text = profile(R"("flags":["SECCOMP_FILTER_FLAG_TSYNC"])", "SCMP_ACT_ALLOW");
  EXPECT_EQ(json::parse(edit(text, listening()))["linux"], json::parse(text)["linux"]);
  EXPECT_TRUE(json::parse(edit(profile(R"("flags":["SECCOMP_FILTER_FLAG_LOG"])", "SCMP_ACT_ALLOW"),
                               listening()))["linux"]["seccomp"]
                  .contains("listenerPath"));
}

TEST(Bundle, CpusAreNumberedAnewOnlyWhereAllIsAnswered) {
  const auto all = [](const std::string& text) {
    const Additions with = listening();
    return notifies_all(JsonText::parse(edit(text, with)).value(), "/s", with.syscalls);
  };
  EXPECT_TRUE(all(R"({"linux":{}})"));
  EXPECT_TRUE(all(rules(R"({"names":["sysinfo"],"action":"SCMP_ACT_ALLOW"},
                           {"names":["sched_getaffinity"],"action":"SCMP_ACT_ALLOW"})")));
  EXPECT_FALSE(all(rules(R"({"names":["sysinfo"],"action":"SCMP_ACT_ALLOW"})")));
  EXPECT_FALSE(all(R"({"linux":{"seccomp":{"listenerPath":"/theirs"}}})"));
}

TEST(Bundle, WhatWasAddedIsTakenOut) {
  const std::string text =
      R"({"hooks":{"createRuntime":[{"path":"/other"}],"prestart":[]},"linux":{"seccomp":{
      "defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["sysinfo"],"action":"SCMP_ACT_ALLOW"}]}}})";
  const json out = json::parse(
      remove_from_config(JsonText::parse(edit(text, listening())).value(), listening()).value());
  EXPECT_EQ(out["hooks"]["createRuntime"], json::parse(R"([{"path":"/other"}])"));
  EXPECT_EQ(out["hooks"]["poststop"], json::array());
  EXPECT_EQ(out["linux"]["seccomp"]["listenerPath"], nullptr);
  EXPECT_EQ(out["linux"]["seccomp"]["syscalls"][0]["action"], "SCMP_ACT_ALLOW");
  EXPECT_EQ(remove_from_config(JsonText::parse(text).value(), listening()).value(), text);
}

TEST(Bundle, AListenerOfSomebodyElseStays) {
  Additions with = additions();
  with.seccomp_listener = "/s";
  const json config =
      json::parse(edit(R"({"linux":{"seccomp":{"listenerPath":"/theirs"}}})", with));
  EXPECT_EQ(config["linux"]["seccomp"], json({{"listenerPath", "/theirs"}}));
}

TEST(Bundle, AListenerThatIsNotThereAnyMoreIsTakenBackAndComesAgain) {
  Additions with = additions();
  with.former_listener = "/s";
  Additions listening = with;
  listening.seccomp_listener = "/s";
  const std::string on = edit(R"({"linux":{}})", listening);
  const std::string off = edit(on, with);
  const json seccomp = json::parse(off)["linux"]["seccomp"];
  EXPECT_EQ(seccomp["listenerPath"], nullptr);
  EXPECT_EQ(seccomp["syscalls"][0]["action"], "SCMP_ACT_ALLOW");
  EXPECT_EQ(json::parse(edit(off, listening)), json::parse(on));
}

TEST(Bundle, RefusesKeysThatReadersDisagreeOn) {
  for (const char* text : {R"({"Hooks":{}})", R"({"hooks":{"CreateRuntime":[]}})", "[]", "1"})
    EXPECT_FALSE(add_to_config(JsonText::parse(text).value(), additions())) << text;
}

class BundleOnDisk : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/umwelt-bundle-XXXXXX";
    folder_ = ::mkdtemp(name);
    std::filesystem::create_directory(folder_ + "/rootfs");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void config(const std::string& text) const { std::ofstream(folder_ + "/config.json") << text; }
  Result<JsonText> read() { return read_config(folder_ + "/config.json", choice_, name_); }
  Result<std::string> root(const std::string& text) const {
    return root_of(folder_, UMWELT_TRY(JsonText::parse(text)));
  }
  std::string folder_, name_;
  Choice choice_;
};

TEST_F(BundleOnDisk, RelativeRoot) {
  EXPECT_EQ(root(R"({"root":{"path":"rootfs"}})").value(), folder_ + "/rootfs");
}

TEST_F(BundleOnDisk, RefusesARootThatIsASymlink) {
  std::filesystem::create_directory_symlink("/", folder_ + "/outside");
  EXPECT_EQ(root(R"({"root":{"path":"outside/"}})").error().code, ELOOP);
}

TEST_F(BundleOnDisk, RefusesAHugeConfig) {
  config("{}");
  std::filesystem::resize_file(folder_ + "/config.json", kMaxConfigBytes + 1);
  EXPECT_EQ(read().error().code, EFBIG);
  EXPECT_EQ(choice_.mode, Mode::kOn);
}

TEST_F(BundleOnDisk, WhatIsRequiredIsSoAlsoWhereThatCanNotBeParsed) {
  const std::string required = R"("annotations":{"umwelt":"required"})";
  const std::string long_value(kMaxConfigBytes, 'a');
  for (const std::string& text :
       {"{\"a\":1,\"a\":2," + required + "}", "{" + required + "} trailing",
        "{\"x\":\"" + long_value + "\"," + required + "}"}) {
    config(text);
    choice_ = {};
    EXPECT_FALSE(read());
    EXPECT_EQ(choice_.mode, Mode::kRequired) << text.substr(0, 80);
  }
  config("{" + required + "}");
  EXPECT_TRUE(read());
  config(R"({"process":{"args":["umwelt","required"]}})");
  choice_ = {};
  EXPECT_TRUE(read());
  EXPECT_EQ(choice_.mode, Mode::kOn);
}

TEST_F(BundleOnDisk, DockersLabelsGoBeforeTheEnvironment) {
  const std::string docker = folder_ + "/containers/c0ffee";
  std::filesystem::create_directories(docker);
  std::ofstream(docker + "/config.v2.json")
      << R"({"Name":"/web","Config":{"Labels":{"umwelt":"required"}}})";
  Choice choice;
  std::string name;
  const auto text = JsonText::parse(
      R"({"process":{"env":["umwelt=off"]},"mounts":[{"destination":"/etc/hostname","source":")" +
      docker + R"(/hostname"}]})");
  ASSERT_TRUE(read_bundle_choice(text.value(), choice, name));
  EXPECT_EQ(choice.mode, Mode::kRequired);
  EXPECT_EQ(name, "web");
  // The labels of an image are there, too: longer than is read, it could hide what is required.
  std::filesystem::resize_file(docker + "/config.v2.json", 100U << 20);
  choice = {};
  EXPECT_EQ(read_bundle_choice(text.value(), choice, name).error().code, EFBIG);
  EXPECT_EQ(choice.mode, Mode::kRequired);
}

TEST_F(BundleOnDisk, RefusesNoRoot) {
  for (const char* text : {"{}", R"({"root":{}})", R"({"root":{"path":1}})",
                           R"({"root":{"path":"a\u0000b"}})", "nonsense"})
    EXPECT_FALSE(root(text)) << text;
}

}  // namespace
}  // namespace umwelt::oci
