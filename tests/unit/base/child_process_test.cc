// SPDX-License-Identifier: Apache-2.0
#include "base/child_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>

namespace umwelt {
namespace {

using namespace std::chrono_literals;

TEST(RunApart, GivesTheTextOrTheError) {
  EXPECT_EQ(run_apart([] { return Result<std::string>("a b\nc"); }).value(), "a b\nc");
  EXPECT_EQ(run_apart([] { return Result<std::string>(std::string(100000, 'x')); }, 60s).value(),
            std::string(100000, 'x'));
  const auto failed = run_apart([]() -> Result<std::string> { return fail(ENOENT, "open it"); });
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ENOENT);
  EXPECT_EQ(failed.error().text, "open it");
  EXPECT_FALSE(run_apart([]() -> Result<std::string> { ::_exit(0); }));
}

TEST(RunApart, WhoNeverEndsHoldsUpNobody) {
  const auto late = run_apart(
      []() -> Result<std::string> {
        for (;;) ::pause();
      },
      50ms);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, ETIMEDOUT);
}

TEST(RunApart, HasNoneOfTheStandardStreams) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const int kept = ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  ASSERT_EQ(::dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
  const auto said = run_apart([]() -> Result<std::string> {
    return ::write(STDERR_FILENO, "x", 1) == 1 ? "written" : "refused";
  });
  ::dup2(kept, STDERR_FILENO);
  ::close(kept);
  ::close(ends[1]);
  EXPECT_EQ(said.value(), "written");  // to /dev/null
  char byte;
  EXPECT_EQ(::read(ends[0], &byte, 1), 0);
  ::close(ends[0]);
}

TEST(OutputOf, GivesWhatAProgramWritesToStdout) {
  const auto run = [](const std::string& script) {
    return output_of({"/bin/sh", "-c", script}, 100, 60s);
  };
  EXPECT_EQ(run("echo a; echo b >&2; cat; readlink /proc/self/fd/0").value(), "a\n/dev/null\n");
  EXPECT_EQ(run("printf %0100d 0").value(), std::string(100, '0'));
  EXPECT_EQ(run("printf %0101d 0").error().code, EFBIG);
  EXPECT_EQ(run("yes").error().code, EFBIG);
  EXPECT_EQ(run("echo a; exit 3").error().text, "/bin/sh: exit code 3");
  EXPECT_EQ(output_of({"/nowhere/sh"}, 100, 60s).error().code, 0);
}

TEST(OutputOf, WhoNeverEndsIsKilled) {
  for (const char* script : {"sleep 1000 & sleep 1000", "exec >&-; sleep 1000", "sleep 1000 &"}) {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(output_of({"/bin/sh", "-c", script}, 100, 100ms).error().code, ETIMEDOUT) << script;
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 60s) << script;
  }
}

TEST(OutputOf, LeavesOurDescriptorsToUs) {
  const UniqueFd inherited(::open("/", O_RDONLY));
  const std::string path = "/proc/self/fd/" + std::to_string(inherited.get());
  EXPECT_FALSE(output_of({"/bin/sh", "-c", "ls " + path}, 100, 60s));
}

}  // namespace
}  // namespace umwelt
