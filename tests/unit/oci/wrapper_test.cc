// SPDX-License-Identifier: Apache-2.0
#include "oci/wrapper.h"

#include <gtest/gtest.h>

namespace umwelt::oci {
namespace {

TEST(Wrapper, FindsTheBundleOfCreateAndRun) {
  // As containerd's shim, podman and a person call it.
  const auto shim =
      parse_runtime_command({"--root", "/run/create", "--log", "/l", "--log-format", "json",
                             "create", "--bundle", "/b", "--pid-file", "/p", "id"});
  ASSERT_TRUE(shim);
  EXPECT_EQ(shim->bundle, "/b");
  EXPECT_EQ(shim->id, "id");
  const auto person = parse_runtime_command({"run", "-b", "b", "-d", "x"});
  ASSERT_TRUE(person);
  EXPECT_EQ(person->bundle, "b");
  const auto joined = parse_runtime_command({"--root=/r", "run", "--bundle=/c", "x"});
  ASSERT_TRUE(joined);
  EXPECT_EQ(joined->bundle, "/c");
  EXPECT_EQ(parse_runtime_command({"create", "x"})->bundle, ".");
}

TEST(Wrapper, SeesWhatConnectsToTheListenersSocketAgain) {
  EXPECT_EQ(parse_runtime_command({"--root", "/r", "exec", "x", "run"})->name, "exec");
  EXPECT_EQ(parse_runtime_command({"start", "x"})->name, "start");
}

TEST(Wrapper, LeavesOtherCommandsAlone) {
  EXPECT_FALSE(parse_runtime_command({"--root", "run", "delete", "x"}));
  EXPECT_FALSE(parse_runtime_command({"state", "x", "run"}));
  EXPECT_FALSE(parse_runtime_command({"--version"}));
  EXPECT_FALSE(parse_runtime_command({"run"}));
  EXPECT_FALSE(parse_runtime_command({}));
}

}  // namespace
}  // namespace umwelt::oci
