// SPDX-License-Identifier: Apache-2.0
#include "vdisk/confined.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>

#include "base/file.h"
#include "host.h"

namespace umwelt::vdisk {
namespace {

using nlohmann::json;
using test::make_directory;
using test::shell;

// The errno of each call that has to fail, 0 where it did not.
class ConfinedTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = make_directory("confined");
    source_ = make_directory("confined-source");
    std::ofstream(source_ + "/given") << "text";
    fd_ = *open_at(AT_FDCWD, directory_, O_RDONLY | O_DIRECTORY);
    source_fd_ = *open_at(AT_FDCWD, source_, O_RDONLY | O_DIRECTORY);
  }

  Result<json> run(const ConfinedWork& work) {
    return run_confined(fd_.get(), source_fd_.get(), work,
                        [this](const json& message) { told_.push_back(message); });
  }

  static int error_of(long result) { return result < 0 ? errno : 0; }

  std::string directory_, source_;
  UniqueFd fd_, source_fd_;
  std::vector<json> told_;
};

TEST_F(ConfinedTest, WhatItWritesAndTellsArrives) {
  const auto result = run([](const Confined& confined) -> Result<json> {
    confined.tell({{"step", 1}});
    confined.tell({{"step", "\xff\n"}});  // any bytes
    const std::string given = UMWELT_TRY(read_file_at(confined.source, "given", 100));
    const UniqueFd made =
        UMWELT_TRY(open_at(confined.directory, "made", O_WRONLY | O_CREAT | O_EXCL, 0600));
    if (::write(made.get(), given.data(), given.size()) < 0) return fail_errno("write");
    return json{{"sum", 42}};
  });
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_EQ(result->at("sum"), 42);
  ASSERT_EQ(told_.size(), 2U);
  EXPECT_EQ(told_[0].at("step"), 1);
  EXPECT_EQ(told_[1].at("step"), "\uFFFD\n");
  EXPECT_EQ(*read_file_at(fd_.get(), "made", 100), "text");
}

TEST_F(ConfinedTest, AnErrorIsTheWorksOwn) {
  const auto result = run([](const Confined&) -> Result<json> { return fail(ENOSPC, "unpack"); });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ENOSPC);
  EXPECT_EQ(result.error().text, "unpack");
}

TEST_F(ConfinedTest, AProcessThatDiesIsAnError) {
  const auto result = run([](const Confined&) -> Result<json> { ::_exit(3); });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, 0);
  EXPECT_THAT(result.error().text, testing::HasSubstr("ended with 3"));
}

TEST_F(ConfinedTest, AMessageWithoutEndIsAnError) {
  const auto result = run([](const Confined& confined) -> Result<json> {
    confined.tell({{"step", std::string(16U << 20, 'x')}});
    return json::object();
  });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, EMSGSIZE);
}

TEST_F(ConfinedTest, NoPathLeadsOut) {
  const auto result = run([&](const Confined& confined) -> Result<json> {
    struct stat root {
    }, up{};
    EXPECT_EQ(::fstat(confined.directory, &root), 0);
    std::string far;
    for (int i = 0; i < 60; ++i) far += "../";
    const int up_result = ::fstatat(confined.directory, far.c_str(), &up, 0);
    struct stat source {
    }, above{};
    ::fstat(confined.source, &source);
    ::fstatat(confined.source, far.c_str(), &above, 0);
    return json{
        {"etc", error_of(::open("/etc/passwd", O_RDONLY))},
        {"scratch", error_of(::open(directory_.c_str(), O_RDONLY))},
        {"proc", error_of(::open("/proc/self/status", O_RDONLY))},
        {"up_is_root", up_result == 0 && up.st_ino == root.st_ino && up.st_dev == root.st_dev},
        {"above_is_source", above.st_ino == source.st_ino && above.st_dev == source.st_dev},
        {"source", error_of(::openat(confined.source, "new", O_CREAT | O_WRONLY, 0600))},
        {"source_mode", error_of(::fchmodat(confined.source, "given", 0777, 0))},
        {"inherited", error_of(::fcntl(fd_.get(), F_GETFD))},
        {"chroot", error_of(::chroot("/"))},
        {"mount", error_of(::mount("none", "/", "tmpfs", 0, nullptr))},
        {"setns", error_of(::unshare(CLONE_NEWNS))}};
  });
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_EQ(*result, json({{"etc", ENOENT},
                           {"scratch", ENOENT},
                           {"proc", ENOENT},
                           {"up_is_root", true},
                           {"above_is_source", true},
                           {"source", EROFS},
                           {"source_mode", EROFS},
                           {"inherited", EBADF},
                           {"chroot", EPERM},
                           {"mount", EPERM},
                           {"setns", EPERM}}));
}

TEST_F(ConfinedTest, AFileIsReadAndNotChanged) {
  source_fd_ = *open_at(AT_FDCWD, source_ + "/given", O_RDWR);
  ASSERT_EQ(::lseek(source_fd_.get(), 1, SEEK_SET), 1);
  const auto result = run([](const Confined& confined) -> Result<json> {
    const std::string path = "/proc/self/fd/" + std::to_string(confined.source);
    char text[8] = {};
    const ssize_t n = ::read(confined.source, text, sizeof text);
    return json{{"text", std::string(text, static_cast<std::size_t>(std::max<ssize_t>(n, 0)))},
                {"write", error_of(::write(confined.source, "x", 1))},
                {"open", error_of(::open(path.c_str(), O_RDWR))},
                {"truncate", error_of(::truncate(path.c_str(), 0))},
                {"mode", error_of(::fchmod(confined.source, 0777))},
                {"owner", error_of(::fchown(confined.source, 7, 7))}};
  });
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_EQ(*result, json({{"text", "ext"},
                           {"write", EBADF},
                           {"open", EROFS},
                           {"truncate", EROFS},
                           {"mode", EROFS},
                           {"owner", EROFS}}));
  EXPECT_EQ(*read_file(source_ + "/given"), "text");
}

TEST_F(ConfinedTest, AFileWithoutANameOrOfAnotherMountNamespace) {
  const ConfinedWork read = [](const Confined& confined) -> Result<json> {
    char text[8] = {};
    if (::read(confined.source, text, 4) != 4) return fail_errno("read");
    return json(text);
  };
  source_fd_ = *open_at(AT_FDCWD, source_ + "/given", O_RDONLY);
  ASSERT_EQ(::unlink((source_ + "/given").c_str()), 0);
  const auto unnamed = run(read);
  ASSERT_TRUE(unnamed) << unnamed.error().message();
  EXPECT_EQ(*unnamed, "text");
  source_fd_ = UniqueFd(::memfd_create("archive", MFD_CLOEXEC));
  const auto refused = run(read);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().text, testing::HasSubstr("pipe it in"));
}

TEST_F(ConfinedTest, StderrIsNobodys) {
  struct stat null {};
  ASSERT_EQ(::stat("/dev/null", &null), 0);
  const auto result = run([](const Confined&) -> Result<json> {
    struct stat status {};
    return json{{"error", error_of(::fstat(STDERR_FILENO, &status))}, {"device", status.st_rdev}};
  });
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_EQ(*result, json({{"error", 0}, {"device", null.st_rdev}}));
}

TEST_F(ConfinedTest, DevicesAreMadeButNotOpened) {
  const auto result = run([](const Confined& confined) -> Result<json> {
    return json{
        {"made", error_of(::mknodat(confined.directory, "null", S_IFCHR | 0600, makedev(1, 3)))},
        {"opened", error_of(::openat(confined.directory, "null", O_WRONLY))},
        {"owner", error_of(::fchownat(confined.directory, "null", 7, 7, 0))}};
  });
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_EQ(*result, json({{"made", 0}, {"opened", EACCES}, {"owner", 0}}));
}

TEST_F(ConfinedTest, NoProcessAndNoNetworkIsThere) {
  const pid_t outside = ::getpid();
  UniqueFd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "umwelt-test-%d", outside);
  ASSERT_EQ(::bind(server.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(server.get(), 1), 0);
  const auto result = run([&](const Confined&) -> Result<json> {
    const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM, 0));
    return json{{"pid", ::getpid()},
                {"kill", error_of(::kill(outside, 0))},
                {"connect", error_of(::connect(client.get(), reinterpret_cast<sockaddr*>(&address),
                                               sizeof address))},
                {"new_privileges", ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)}};
  });
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_EQ(*result,
            json({{"pid", 1}, {"kill", ESRCH}, {"connect", ECONNREFUSED}, {"new_privileges", 1}}));
}

}  // namespace
}  // namespace umwelt::vdisk
