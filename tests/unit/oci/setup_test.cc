// SPDX-License-Identifier: Apache-2.0
#include "oci/setup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace umwelt::oci {
namespace {

constexpr char kTheirs[] = "{\"registry-mirrors\":[\"https://m\"],\"data-root\":\"/big\"}\n";

class SetupTest : public testing::Test {
 protected:
  SetupTest() {
    std::string folder = testing::TempDir() + "setup-XXXXXX";
    folder_ = ::mkdtemp(folder.data());
    paths_.program = "/usr/bin/umwelt-runtime";
    paths_.umwelt = "/usr/bin/umwelt";
    paths_.state = folder_ + "/state";
    paths_.file = folder_ + "/file";
  }
  ~SetupTest() override { std::filesystem::remove_all(folder_); }

  Result<void> set_up(const std::string& runtime = "docker") {
    const SetupPlan plan = UMWELT_TRY(plan_setup(runtime, paths_));
    return apply_setup(runtime, plan, paths_);
  }
  Result<void> undo(const std::string& runtime = "docker") {
    const auto steps = UMWELT_TRY(plan_undo(runtime, paths_));
    return apply_undo(runtime, steps, paths_);
  }
  void write(const std::string& text) { ASSERT_TRUE(replace_file(paths_.file, text)); }
  std::optional<std::string> now() { return *read_optional_at(AT_FDCWD, paths_.file); }

  std::string folder_;
  SetupPaths paths_;
};

TEST_F(SetupTest, UndoAfterTwoSetupsIsTheOriginal) {
  write(" { }");
  ASSERT_TRUE(set_up());
  ASSERT_TRUE(set_up());
  ASSERT_TRUE(undo());
  EXPECT_EQ(now(), " { }");
}

TEST_F(SetupTest, UndoAfterANewerProgramsSetupIsTheOriginal) {
  for (const auto& text :
       {std::optional<std::string>("# theirs\n"), std::optional<std::string>()}) {
    if (text) write(*text);
    ASSERT_TRUE(set_up("lxc"));
    paths_.program = "/opt/umwelt-runtime";
    ASSERT_TRUE(set_up("lxc"));
    EXPECT_THAT(*now(), testing::HasSubstr("/opt/umwelt-runtime"));
    ASSERT_TRUE(undo("lxc"));
    EXPECT_EQ(now(), text);
    ::unlink(paths_.file.c_str());
  }
}

TEST_F(SetupTest, UndoKeepsWhatWasWrittenBetweenTwoSetups) {
  write("{}\n");
  ASSERT_TRUE(set_up());
  write(kTheirs);
  ASSERT_TRUE(set_up());
  EXPECT_THAT(*now(), testing::HasSubstr("umwelt-runtime"));
  ASSERT_TRUE(undo());
  EXPECT_EQ(now(), kTheirs);
}

TEST_F(SetupTest, UndoRemovesAFileThatWasRemovedBetweenTwoSetups) {
  write("{}\n");
  ASSERT_TRUE(set_up());
  ASSERT_EQ(::unlink(paths_.file.c_str()), 0);
  ASSERT_TRUE(set_up());
  ASSERT_TRUE(undo());
  EXPECT_EQ(now(), std::nullopt);
}

TEST_F(SetupTest, UndoKeepsAFileThatTookThePlaceOfSetups) {
  ASSERT_TRUE(set_up());
  write(kTheirs);
  ASSERT_TRUE(set_up());
  ASSERT_TRUE(undo());
  EXPECT_EQ(now(), kTheirs);
}

// To put that back would leave a hook without its program when umwelt is removed.
TEST_F(SetupTest, AChangedFileThatStillNamesTheProgramIsLeftAlone) {
  ASSERT_TRUE(set_up("lxc"));
  const std::string changed = *now() + "# mine\n";
  write(changed);
  const auto again = set_up("lxc");
  ASSERT_FALSE(again);
  EXPECT_THAT(again.error().text, testing::HasSubstr("by hand"));
  EXPECT_EQ(now(), changed);
  EXPECT_FALSE(undo("lxc"));
  ASSERT_EQ(::unlink(paths_.file.c_str()), 0);
  ASSERT_TRUE(set_up("lxc"));
  ASSERT_TRUE(undo("lxc"));
  EXPECT_EQ(now(), std::nullopt);
}

TEST_F(SetupTest, ARuntimeThatIsAlreadyThereComesAfterOursAsItWas) {
  const std::string other = folder_ + "/opt/other-runtime";
  write(R"({"default-runtime":"gpu","runtimes":{"gpu":{"path":")" + other +
        R"(","runtimeArgs":["--gpu", "all"]}}})");
  ASSERT_TRUE(set_up());
  const auto json = nlohmann::json::parse(*now());
  const std::string link = paths_.state + "/runtimes/umwelt-other-runtime";
  EXPECT_EQ(json["runtimes"]["umwelt"],
            (nlohmann::json{{"path", link}, {"runtimeArgs", {"--gpu", "all"}}}));
  EXPECT_EQ(std::filesystem::read_symlink(link), paths_.program);
  EXPECT_EQ(std::filesystem::read_symlink(link + ".real"), other);
  EXPECT_TRUE(is_set_up("docker", paths_));
}

TEST_F(SetupTest, AnEmptyDaemonJsonIsNoMistake) {
  for (const char* text : {"", "\n"}) {
    write(text);
    ASSERT_TRUE(set_up());
    EXPECT_TRUE(is_set_up("docker", paths_));
    ASSERT_TRUE(undo());
    EXPECT_EQ(now(), text);
  }
}

TEST_F(SetupTest, CriOReadsNoOtherHooksThanPodman) {
  paths_.file.clear();
  paths_.root = folder_ + "/root";
  for (const char* runtime : {"podman", "crio"})
    EXPECT_EQ(plan_setup(runtime, paths_)->files[0].path,
              paths_.root + "/usr/share/containers/oci/hooks.d/umwelt-createRuntime.json");
}

TEST_F(SetupTest, ContainerdsDefaultRuntimeComesAfterOurs) {
  const std::string cri = "plugins.\"io.containerd.grpc.v1.cri\".containerd";
  const std::string gpu = folder_ + "/opt/gpu-runtime";
  const std::string theirs = "version = 2\n[" + cri + "]\ndefault_runtime_name = \"gpu\"\n[" + cri +
                             ".runtimes.gpu]\nruntime_type = \"io.containerd.runc.v2\"\n";
  write(theirs + "[" + cri + ".runtimes.gpu.options]\nBinaryName = \"" + gpu + "\"\n");
  ASSERT_TRUE(set_up("containerd"));
  const std::string link = paths_.state + "/runtimes/umwelt-gpu-runtime";
  EXPECT_THAT(*now(), testing::HasSubstr("BinaryName = \"" + link + "\"\n"));
  EXPECT_EQ(std::filesystem::read_symlink(link), paths_.program);
  EXPECT_EQ(std::filesystem::read_symlink(link + ".real"), gpu);
  EXPECT_TRUE(is_set_up("containerd", paths_));
  ASSERT_TRUE(undo("containerd"));

  write(theirs);
  ASSERT_TRUE(set_up("containerd"));
  EXPECT_THAT(*now(), testing::HasSubstr(".runtimes.\"gpu\".options]\nBinaryName = \"" +
                                         paths_.program + "\"\n"));
  ASSERT_TRUE(undo("containerd"));

  write("version = 2\n[" + cri + "]\ndefault_runtime_name = \"kata\"\n[" + cri +
        ".runtimes.kata]\nruntime_type = \"io.containerd.kata.v2\"\n");
  EXPECT_THAT(set_up("containerd").error().text, testing::HasSubstr("default runtime kata"));
}

TEST_F(SetupTest, DockersOwnWordForRuncIsRunc) {
  write(R"({"default-runtime":"io.containerd.runc.v2"})");
  ASSERT_TRUE(set_up());
  EXPECT_EQ(nlohmann::json::parse(*now())["runtimes"]["umwelt"]["path"], paths_.program);
}

TEST_F(SetupTest, TheLinksOfContainersThatRunStay) {
  write("{}");
  ASSERT_TRUE(set_up());
  ASSERT_TRUE(undo());
  EXPECT_EQ(std::filesystem::read_symlink(paths_.state + "/runtimes/runc"), paths_.program);
  EXPECT_FALSE(std::filesystem::exists(paths_.state + "/setup"));
}

TEST_F(SetupTest, DockersEntryMustBeOurs) {
  for (
      const char* text :
      {R"({"default-runtime":"umwelt"})", R"({"default-runtime":"umwelt","runtimes":{}})",
       R"({"default-runtime":"umwelt","runtimes":{"umwelt":{"path":"/other","runtimeArgs":["x"]}}})"}) {
    write(text);
    EXPECT_FALSE(is_set_up("docker", paths_)) << text;
    ASSERT_TRUE(set_up());
    EXPECT_EQ(nlohmann::json::parse(*now())["runtimes"]["umwelt"],
              (nlohmann::json{{"path", paths_.program}}));
    EXPECT_TRUE(is_set_up("docker", paths_));
    ASSERT_TRUE(undo());
  }
}

TEST_F(SetupTest, ItIsSetUpAsLongAsTheFileSaysSo) {
  EXPECT_FALSE(is_set_up("docker", paths_));
  ASSERT_TRUE(set_up());
  EXPECT_TRUE(is_set_up("docker", paths_));
  write(kTheirs);
  EXPECT_FALSE(is_set_up("docker", paths_));
}

TEST_F(SetupTest, WhatCouldNotBeWrittenIsNotSetUp) {
  paths_.file = folder_ + "/file/is/no/folder";
  ASSERT_TRUE(replace_file(folder_ + "/file", "x"));
  const SetupPlan plan{{{paths_.file, std::nullopt, "after"}}, {}, "", ""};
  EXPECT_FALSE(apply_setup("lxc", plan, paths_));
  EXPECT_EQ(undo("lxc").error().text, "lxc is not set up");
}

TEST_F(SetupTest, WhatFailsTheSecondTimeCanStillBeUndone) {
  write("# theirs\n");
  ASSERT_TRUE(set_up("lxc"));
  const std::string ours = *now();
  // No plan that fails to be written is easily made: the folder of its file is none.
  const SetupPlan plan{
      {{paths_.file, ours, "again"}, {paths_.file + "/x", std::nullopt, "y"}}, {}, "", ""};
  EXPECT_FALSE(apply_setup("lxc", plan, paths_));
  ASSERT_TRUE(undo("lxc"));
  EXPECT_EQ(now(), "# theirs\n");
}

TEST_F(SetupTest, WhatWasTakenOutByHandIsLeftAlone) {
  write("{}\n");
  ASSERT_TRUE(set_up());
  write(kTheirs);
  ASSERT_TRUE(undo());
  EXPECT_EQ(now(), kTheirs);
  EXPECT_EQ(undo().error().text, "docker is not set up");
}

TEST_F(SetupTest, OwnerModeAndWhatLiesBesideAFileStay) {
  write("{}\n");
  ASSERT_EQ(::chmod(paths_.file.c_str(), 0640), 0);
  const bool root = ::geteuid() == 0;
  const uid_t owner = root ? 4711 : ::geteuid();
  const gid_t group = root ? 4712 : ::getegid();
  ASSERT_EQ(::chown(paths_.file.c_str(), owner, group), 0);
  ASSERT_TRUE(replace_file(paths_.file + ".new", "theirs"));
  for (const bool setup : {true, false}) {
    ASSERT_TRUE(setup ? set_up() : undo());
    struct stat status {};
    ASSERT_EQ(::stat(paths_.file.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0640U);
    EXPECT_EQ(status.st_uid, owner);
    EXPECT_EQ(status.st_gid, group);
    EXPECT_EQ(*read_file(paths_.file + ".new"), "theirs");
  }
}

TEST_F(SetupTest, HooksKnowWhereTheDaemonIs) {
  paths_.runtime = "/run/other";
  for (const char* runtime : {"lxc", "nspawn", "cdi"}) {
    ASSERT_TRUE(set_up(runtime));
    EXPECT_THAT(*now(), testing::HasSubstr("--runtime-dir")) << runtime;
    ASSERT_TRUE(undo(runtime));
  }
}

TEST_F(SetupTest, AWrapperIsToldByItsEnvironmentWhereTheDaemonIs) {
  const auto told = testing::Contains(testing::HasSubstr("UMWELT_RUNTIME_DIR=/run/other"));
  for (const char* runtime : {"docker", "containerd"}) {
    paths_.runtime.clear();
    EXPECT_THAT(plan_setup(runtime, paths_)->next, testing::Not(told)) << runtime;
    paths_.runtime = "/run/other";
    EXPECT_THAT(plan_setup(runtime, paths_)->next, told) << runtime;
  }
}

TEST(SetupContainerd, AFileWithoutAVersionGetsOneWhereThatChangesNothing) {
  const auto edited = edit_containerd_toml("# theirs\nroot = \"/x\"\n[plugins]\n", "/p");
  ASSERT_TRUE(edited) << edited.error().message();
  EXPECT_TRUE(edited->starts_with("version = 2\n# theirs\nroot")) << *edited;
  EXPECT_THAT(*edited, testing::HasSubstr("BinaryName = \"/p\""));
  for (const char* text : {"[plugins.cri]\n", "disabled_plugins = [\"aufs\"]\n", "version = 1\n"}) {
    const auto refused = edit_containerd_toml(text, "/p");
    ASSERT_FALSE(refused) << text;
    EXPECT_THAT(refused.error().text, testing::HasSubstr("containerd config dump > new.toml"));
  }
}

TEST(SetupContainerd, WithoutCriThereIsNothingToSetUpForIt) {
  for (const std::string text :
       {"disabled_plugins = [\"cri\"]\n",
        "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"})
    EXPECT_EQ(edit_containerd_toml(text, "/p").value(), text);
}

}  // namespace
}  // namespace umwelt::oci
