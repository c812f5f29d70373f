// SPDX-License-Identifier: Apache-2.0
#include "oci/wrapper.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>

namespace umwelt::oci {
namespace {

namespace fs = std::filesystem;

// As both read it.
std::optional<RuntimeCommand> parse(const std::vector<std::string>& arguments) {
  const auto go = parse_runtime_command(arguments, Options::kGo);
  const auto getopt = parse_runtime_command(arguments, Options::kGetopt);
  EXPECT_EQ(go.has_value(), getopt.has_value());
  EXPECT_EQ(go.value_or(RuntimeCommand{}).bundle, getopt.value_or(RuntimeCommand{}).bundle);
  return go;
}

TEST(Wrapper, FindsTheBundleOfCreateAndRun) {
  // As containerd's shim, podman and a person call it.
  const auto shim = parse({"--root", "/run/create", "--log", "/l", "--log-format", "json", "create",
                           "--bundle", "/b", "--pid-file", "/p", "id"});
  ASSERT_TRUE(shim);
  EXPECT_EQ(shim->bundle, "/b");
  EXPECT_EQ(shim->id, "id");
  const auto person = parse({"run", "-b", "b", "-d", "x"});
  ASSERT_TRUE(person);
  EXPECT_EQ(person->bundle, "b");
  const auto joined = parse({"--root=/r", "run", "--bundle=/c", "x"});
  ASSERT_TRUE(joined);
  EXPECT_EQ(joined->bundle, "/c");
  EXPECT_EQ(parse({"create", "x"})->bundle, ".");
}

TEST(Wrapper, ReadsOptionsAsGoDoes) {
  for (const char* option : {"-b=/b", "-bundle=/b", "--b=/b", "--bundle=/b"})
    EXPECT_EQ(parse_runtime_command({"run", option, "x"}, Options::kGo)->bundle, "/b") << option;
  for (const char* option : {"-b", "-bundle", "--b", "--bundle"}) {
    const auto command =
        parse_runtime_command({"-root", "/r", "run", option, "/b", "-d", "x"}, Options::kGo);
    ASSERT_TRUE(command) << option;
    EXPECT_EQ(command->bundle, "/b") << option;
    EXPECT_EQ(command->id, "x") << option;
  }
}

TEST(Wrapper, ReadsOptionsAsGetoptDoes) {
  for (const char* option : {"-b/b", "--b=/b", "--bund=/b"})
    EXPECT_EQ(parse_runtime_command({"run", option, "x"}, Options::kGetopt)->bundle, "/b")
        << option;
  for (const char* option : {"-b", "--bund", "--bundle"})
    EXPECT_EQ(
        parse_runtime_command({"run", option, "/b", "--detach", "x"}, Options::kGetopt)->bundle,
        "/b")
        << option;
  EXPECT_EQ(parse_runtime_command({"run", "-b=b", "x"}, Options::kGetopt)->bundle, "=b");
}

TEST(Wrapper, SeesThatTheConfigurationIsAnotherFile) {
  for (const auto& arguments : std::vector<std::vector<std::string>>{
           {"run", "-f", "/c", "x"}, {"run", "--config=/c", "x"}, {"run", "-f/c", "x"}})
    EXPECT_EQ(parse_runtime_command(arguments, Options::kGetopt)->config, "/c");
  EXPECT_EQ(parse_runtime_command({"run", "x"}, Options::kGetopt)->config, "");
  // Another runtime's own settings.
  EXPECT_EQ(parse_runtime_command({"--config", "/c", "run", "x"}, Options::kGo)->config, "");
}

TEST(Wrapper, FindsTheRuntimeOfALinkAndNoOtherOfItsName) {
  std::string folder = testing::TempDir() + "wrapper-XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const std::string link = folder + "/umwelt-true", real = folder + "/opt";
  fs::create_directory(real);
  fs::copy_file("/bin/true", real + "/true");
  fs::create_symlink(real + "/true", link + kRealRuntime);
  EXPECT_EQ(find_runtime(link).value(), real + "/true");
  fs::remove(real + "/true");
  EXPECT_EQ(find_runtime(link).error().code, ENOENT);
  fs::remove(link + kRealRuntime);
  EXPECT_TRUE(find_runtime(link).value().ends_with("bin/true"));
  fs::create_symlink("/proc/self/exe", link + kRealRuntime);
  EXPECT_FALSE(find_runtime(link));
  fs::remove_all(folder);
}

TEST(Wrapper, SeesWhatConnectsToTheListenersSocketAgain) {
  EXPECT_EQ(parse({"--root", "/r", "exec", "x", "run"})->name, "exec");
  EXPECT_EQ(parse({"start", "x"})->name, "start");
}

TEST(Wrapper, LeavesOtherCommandsAlone) {
  EXPECT_FALSE(parse({"--root", "run", "delete", "x"}));
  EXPECT_FALSE(parse({"state", "x", "run"}));
  EXPECT_FALSE(parse({"--version"}));
  EXPECT_FALSE(parse({"run"}));
  EXPECT_FALSE(parse({}));
}

}  // namespace
}  // namespace umwelt::oci
