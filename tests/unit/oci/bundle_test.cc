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
      {"names":["read","sysinfo","write"],"action":"SCMP_ACT_ALLOW"}]}}})",
                       with));
  const json& seccomp = config["linux"]["seccomp"];
  EXPECT_EQ(seccomp["syscalls"][0]["names"], json({"read", "write"}));
  EXPECT_EQ(seccomp["syscalls"][1],
            json::parse(R"({"names":["sysinfo","sched_getaffinity"],"action":"SCMP_ACT_NOTIFY"})"));
  EXPECT_EQ(seccomp["listenerPath"], "/s");
  EXPECT_EQ(seccomp["listenerMetadata"], "web");
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
  EXPECT_EQ(seccomp["listenerPath"], "");
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
  std::string folder_;
};

TEST_F(BundleOnDisk, RelativeRoot) {
  config(R"({"root":{"path":"rootfs"}})");
  EXPECT_EQ(read_bundle(folder_).value().root, folder_ + "/rootfs");
}

TEST_F(BundleOnDisk, RefusesARootThatIsASymlink) {
  std::filesystem::create_directory_symlink("/", folder_ + "/outside");
  config(R"({"root":{"path":"outside/"}})");
  EXPECT_EQ(read_bundle(folder_).error().code, ELOOP);
}

TEST_F(BundleOnDisk, RefusesAHugeConfig) {
  config("{}");
  std::filesystem::resize_file(folder_ + "/config.json", kMaxConfigBytes + 1);
  EXPECT_EQ(read_bundle(folder_).error().code, EFBIG);
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
                           R"({"root":{"path":"a\u0000b"}})", "nonsense"}) {
    config(text);
    EXPECT_FALSE(read_bundle(folder_)) << text;
  }
}

}  // namespace
}  // namespace umwelt::oci
