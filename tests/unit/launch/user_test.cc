// SPDX-License-Identifier: Apache-2.0
#include "launch/user.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"

namespace umwelt::launch {
namespace {

constexpr std::string_view kPasswd =
    "root:x:0:0:root:/root:/bin/bash\n"
    "broken line\n"
    "short:x:5\n"
    "big:x:4294967295:0::/:\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    "app:x:1000:1001:,,,:/home/app:/bin/sh\n"
    "rel:x:70:71::relative:/bin/sh\n"
    "8:x:0:0::/root:/bin/sh\n"
    ":x:0:0::/nameless:/bin/sh\n"
    "4294967295:x:0:0::/root:/bin/sh\n";
constexpr std::string_view kGroup =
    "root:x:0:\nadm:x:4:syslog,app\nstaff:x:50:app\nstaff2:x:50:app\napp:x:1001:\nx:x:bad:app\n"
    "9:x:0:\n4294967295:x:0:\n";

User ok(std::string_view user) {
  auto result = resolve_user(user, kPasswd, kGroup);
  EXPECT_TRUE(result) << (result ? "" : result.error().message());
  return result ? *result : User{};
}
bool refused(std::string_view user) { return !resolve_user(user, kPasswd, kGroup); }

TEST(ResolveUser, DefaultIsRootOfTheContainer) {
  EXPECT_EQ(ok("").uid, 0U);
  EXPECT_EQ(ok("").home, "/root");
  const auto bare = resolve_user("", "", "");
  ASSERT_TRUE(bare);
  EXPECT_EQ(bare->home, "/");
}

TEST(ResolveUser, NameWithItsGroups) {
  const User app = ok("app");
  EXPECT_EQ(app.uid, 1000U);
  EXPECT_EQ(app.gid, 1001U);
  EXPECT_EQ(app.home, "/home/app");
  EXPECT_EQ(app.groups, (std::vector<gid_t>{4, 50}));
}

TEST(ResolveUser, NumbersNeedNoEntry) {
  EXPECT_EQ(ok("1000").gid, 1001U);
  EXPECT_EQ(ok("12345").uid, 12345U);
  EXPECT_EQ(ok("12345").gid, 0U);
  EXPECT_EQ(ok("12345:678").gid, 678U);
  EXPECT_EQ(ok("0:0").uid, 0U);
}

TEST(ResolveUser, ANumberIsNoName) {
  EXPECT_EQ(ok("8").uid, 8U);
  EXPECT_EQ(ok("8:9").gid, 9U);
  EXPECT_EQ(ok("").home, "/root");
  EXPECT_TRUE(refused("4294967295"));
  EXPECT_TRUE(refused("app:4294967295"));
}

TEST(ResolveUser, AHomeThatIsNoAbsolutePath) { EXPECT_EQ(ok("rel").home, "/"); }

TEST(ResolveUser, GivenGroupReplacesTheOthers) {
  EXPECT_EQ(ok("app:adm").gid, 4U);
  EXPECT_TRUE(ok("app:adm").groups.empty());
}

TEST(ResolveUser, RefusesWhatIsNotThere) {
  EXPECT_TRUE(refused("ghost"));
  EXPECT_TRUE(refused("app:ghosts"));
  EXPECT_TRUE(refused("app:"));
  EXPECT_TRUE(refused(":adm"));
  EXPECT_TRUE(refused(":"));
  EXPECT_TRUE(refused("big"));
  EXPECT_TRUE(refused("short"));
  EXPECT_TRUE(refused("4294967295"));
  EXPECT_TRUE(refused("-1"));
  EXPECT_TRUE(refused("99999999999999999999"));
  EXPECT_TRUE(refused("app:x"));
}

class ReadUser : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "read_user_XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    std::filesystem::create_directory(root_ / "etc");
    auto fd = open_at(AT_FDCWD, root_.string(), O_PATH | O_DIRECTORY);
    ASSERT_TRUE(fd);
    fd_ = *std::move(fd);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void passwd(std::string_view text) { std::ofstream(root_ / "etc/passwd") << text; }
  Result<User> read(std::string_view user) { return read_user(fd_.get(), user); }

  std::filesystem::path root_;
  UniqueFd fd_;
};

TEST_F(ReadUser, WithoutFilesNumbersWork) {
  EXPECT_TRUE(read("5:6"));
  EXPECT_FALSE(read("root"));
}

TEST_F(ReadUser, SymlinkStaysInTheRoot) {
  passwd("in:x:11:11::/:\n");
  std::filesystem::rename(root_ / "etc/passwd", root_ / "etc/real");
  std::filesystem::create_symlink("/etc/real", root_ / "etc/passwd");
  const auto user = read("in");
  ASSERT_TRUE(user) << user.error().message();
  EXPECT_EQ(user->uid, 11U);
  EXPECT_FALSE(read("root"));  // the host's passwd has it
}

TEST_F(ReadUser, AFifoOrADirectoryDoesNotHoldUs) {
  ASSERT_EQ(::mkfifo((root_ / "etc/passwd").c_str(), 0644), 0);
  EXPECT_FALSE(read("root"));
  std::filesystem::remove(root_ / "etc/passwd");
  std::filesystem::create_directory(root_ / "etc/passwd");
  EXPECT_FALSE(read("root"));
}

TEST_F(ReadUser, AHugeFileIsRefused) {
  passwd("");
  std::filesystem::resize_file(root_ / "etc/passwd", 1ULL << 40);
  EXPECT_FALSE(read("root"));
}

}  // namespace
}  // namespace umwelt::launch
