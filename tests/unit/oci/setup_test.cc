// SPDX-License-Identifier: Apache-2.0
#include "oci/setup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>

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

}  // namespace
}  // namespace umwelt::oci
