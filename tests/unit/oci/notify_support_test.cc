// SPDX-License-Identifier: Apache-2.0
#include "oci/notify_support.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/file.h"

namespace umwelt::oci {
namespace {

namespace fs = std::filesystem;

std::string features(const std::string& seccomp, const std::string& annotations = "{}") {
  return R"({"ociVersionMax":"1.0.2-dev","linux":{"seccomp":)" + seccomp + R"(},"annotations":)" +
         annotations + "}";
}

TEST(NotifySupport, IsAmongARuntimesFeatures) {
  const std::string actions = R"("actions":["SCMP_ACT_ALLOW","SCMP_ACT_NOTIFY"]})";
  EXPECT_EQ(parse_features(features(R"({"enabled":true,)" + actions)), true);
  EXPECT_EQ(parse_features(features("{" + actions)), true);
  EXPECT_EQ(parse_features(features(R"({"enabled":false,)" + actions)), false);
  const std::string library = "io.github.seccomp.libseccomp.version";
  for (const auto& [version, answer] :
       {std::pair("2.5.4", true), {"2.10", true}, {"2.4.9", false}, {"nonsense", false}})
    EXPECT_EQ(
        parse_features(features("{" + actions, R"({")" + library + R"(":")" + version + R"("})")),
        answer)
        << version;
}

TEST(NotifySupport, IsNotWhereFeaturesDoNotSayIt) {
  for (const char* seccomp :
       {"null", "{}", "[]", "7", R"({"actions":null})", R"({"actions":"SCMP_ACT_NOTIFY"})",
        R"({"actions":["SCMP_ACT_ALLOW",7,{}]})", R"({"actions":{"SCMP_ACT_NOTIFY":1}})"})
    EXPECT_EQ(parse_features(features(seccomp)), false) << seccomp;
  for (const char* text : {"{}", R"({"linux":[]})", R"({"linux":"seccomp"})"})
    EXPECT_EQ(parse_features(text), false) << text;
  const std::string deep(100'000, '[');
  for (const std::string& text : {std::string(), std::string("No help topic for 'features'"),
                                  std::string("[]"), std::string("{\"linux\":"), deep})
    EXPECT_EQ(parse_features(text), std::nullopt) << text.substr(0, 40);
}

TEST(NotifySupport, FollowsFromTheVersionsOfRuncAndCrun) {
  const std::string options = "\ncommit: f8a0\nspec: 1.0.0\n+SYSTEMD +SECCOMP +YAJL\n";
  for (const char* first : {"runc version 1.1.5+ds1", "runc version 1.1.0-rc.1", "runc version 1.2",
                            "runc version 2.0.0", "crun version 1.0", "crun version 1.8.1"})
    EXPECT_TRUE(parse_version(first + options)) << first;
  for (const char* first :
       {"runc version 1.0.1", "runc version 1.0.0-rc93", "runc version spec: 1.0.2", "runc version",
        "runc version 99999999999999999999.1", "crun version 0.20.1", "crun 1.8.1", "youki 0.3",
        "youki version 2.0", "runsc version release-20230102.0", "xrunc version 1.1.5", ""})
    EXPECT_FALSE(parse_version(first + options)) << first;
  EXPECT_FALSE(parse_version("crun version 1.8.1\n+SYSTEMD -SECCOMP\n"));
}

TEST(NotifySupport, AnswersAreKeptByFileAndPath) {
  const std::string runc = "1 2 3 4 5 /usr/sbin/runc", crun = "1 6 3 4 5 /a b/crun";
  std::string kept = add_answer(add_answer("", runc, true), crun, false);
  EXPECT_EQ(find_answer(kept, runc), true);
  EXPECT_EQ(find_answer(kept, crun), false);
  const std::string upgraded = "1 7 3 4 5 /usr/sbin/runc";
  EXPECT_EQ(find_answer(kept, upgraded), std::nullopt);
  kept = add_answer(kept, upgraded, false);
  EXPECT_EQ(kept, "no " + upgraded + "\nno " + crun + "\n");
  for (int i = 0; i < 100; ++i) kept = add_answer(kept, runc + std::to_string(i), true);
  EXPECT_EQ(std::count(kept.begin(), kept.end(), '\n'), 16);
}

TEST(NotifySupport, LinesThatAreNoAnswersFallAway) {
  const std::string key = "1 2 3 4 5 /r";
  for (const char* text :
       {"", "yes", "yes 1 2 3 4 5 /r/", "maybe 1 2 3 4 5 /r", " yes 1 2 3 4 5 /r"})
    EXPECT_EQ(find_answer(text, key), std::nullopt) << text;
  EXPECT_EQ(add_answer(std::string("x\0y\nyes\n\xff\n", 9), key, true), "yes " + key + "\n");
}

// A runtime that is a script: what it says to COMMAND is in the file of that name.
class AskedRuntime : public testing::Test {
 protected:
  AskedRuntime() {
    EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
    write("runtime", "#!/bin/sh\necho $1 >> " + folder_ + "/asked; . " + folder_ + "/$1");
    fs::permissions(path("runtime"), fs::perms::owner_all);
    write("features", "echo No help topic; exit 3");
    write("--version", "echo runc version 1.1.0");
  }
  ~AskedRuntime() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name)) << text << "\n";
  }
  // What it was asked comes behind the answer.
  std::string ask() const {
    fs::remove(path("asked"));
    const auto answer = knows_notify(path("runtime"), path("kept"));
    return (!answer   ? "nothing"
            : *answer ? "yes"
                      : "no") +
           std::string(" ") + read_file(path("asked")).value_or("");
  }

  std::string folder_ = testing::TempDir() + "runtime-XXXXXX";
};

TEST_F(AskedRuntime, IsAskedOnce) {
  EXPECT_EQ(ask(), "yes features\n--version\n");
  EXPECT_EQ(ask(), "yes ");
  EXPECT_EQ(fs::status(path("kept")).permissions(), fs::perms(0600));
  write("runtime", read_file(path("runtime")).value());  // another time, as by an upgrade
  write("--version", "echo runc version 1.0.3");
  EXPECT_EQ(ask(), "no features\n--version\n");
  EXPECT_EQ(ask(), "no ");
  fs::remove(path("kept"));
  write("features", R"(echo '{"linux":{"seccomp":{"actions":["SCMP_ACT_NOTIFY"]}}}')");
  EXPECT_EQ(ask(), "yes features\n");
  EXPECT_EQ(ask(), "yes ");
}

TEST_F(AskedRuntime, IsAskedAgainWhenItDidNotAnswer) {
  write("--version", "exit 1");
  EXPECT_EQ(ask(), "nothing features\n--version\n");
  write("--version", "yes");
  EXPECT_EQ(ask(), "nothing features\n--version\n");
  write("features", "sleep 1000");
  EXPECT_EQ(ask(), "nothing features\n");
  EXPECT_FALSE(fs::exists(path("kept")));
  EXPECT_FALSE(knows_notify(path("nowhere"), path("kept")));
}

TEST_F(AskedRuntime, ReadsNoFileThatIsNotItsOwn) {
  ASSERT_EQ(ask(), "yes features\n--version\n");
  const std::string kept = read_file(path("kept")).value();
  write("--version", "echo runc version 1.0.3");
  for (const std::string& text : {std::string("nonsense"), std::string(100'000, 'x') + "\n" + kept,
                                  kept.substr(0, kept.size() / 2), std::string()}) {
    write("kept", text);
    EXPECT_EQ(ask(), "no features\n--version\n") << text.substr(0, 40);
    EXPECT_EQ(ask(), "no ");
  }
  write("kept", kept);
  EXPECT_EQ(ask(), "yes ");
  fs::permissions(path("kept"), fs::perms(0622));  // anybody may have written it
  EXPECT_EQ(ask(), "no features\n--version\n");
  EXPECT_EQ(ask(), "no ");
  write("elsewhere", kept);
  fs::remove(path("kept"));
  fs::create_symlink(path("elsewhere"), path("kept"));
  EXPECT_EQ(ask(), "no features\n--version\n");
  EXPECT_EQ(read_file(path("elsewhere")).value(), kept + "\n");
  fs::remove(path("kept"));
  ASSERT_EQ(::mkfifo(path("kept").c_str(), 0600), 0);
  EXPECT_EQ(ask(), "no features\n--version\n");
  fs::remove(path("kept"));
  fs::create_directory(path("kept"));
  EXPECT_EQ(ask(), "no features\n--version\n");
  if (::geteuid() != 0) return;
  fs::remove(path("kept"));
  write("kept", kept);
  ASSERT_EQ(::chown(path("kept").c_str(), 4711, 4711), 0);
  EXPECT_EQ(ask(), "no features\n--version\n");
}

}  // namespace
}  // namespace umwelt::oci
