// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <set>
#include <thread>
#include <vector>

namespace umwelt {
namespace {

class Directory {
 public:
  Directory() : path_(::testing::TempDir() + "umwelt-file-test-" + std::to_string(::getpid())) {
    std::filesystem::create_directory(path_);
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(ReadNames, GivesEachOfMoreThanOneCallReturns) {
  const Directory directory;
  std::set<std::string> made;
  for (int i = 0; i < 500; ++i) {
    const std::string name = std::to_string(i) + std::string(static_cast<unsigned>(i) % 240, 'n');
    ASSERT_EQ(::mkdir((directory.path() + "/" + name).c_str(), 0700), 0);
    made.insert(name);
  }
  const auto names = read_names_at(AT_FDCWD, directory.path());
  ASSERT_TRUE(names);
  EXPECT_EQ(names->size(), made.size());
  EXPECT_EQ(read_names_at(AT_FDCWD, directory.path(), 300)->size(), 300U);
  EXPECT_EQ(std::set<std::string>(names->begin(), names->end()), made);
}

TEST(ReadNames, NoneInAnEmptyDirectory) {
  const Directory directory;
  const auto names = read_names_at(AT_FDCWD, directory.path());
  ASSERT_TRUE(names);
  EXPECT_TRUE(names->empty());
}

TEST(ReadNames, OnlyOfADirectory) {
  EXPECT_EQ(read_names_at(AT_FDCWD, "/proc/self/stat").error().code, ENOTDIR);
  EXPECT_EQ(read_names_at(AT_FDCWD, "/nowhere").error().code, ENOENT);
}

// /proc/interrupts of a machine with 1024 CPUs and as many interrupts for each of its devices.
TEST(Pread, TakesTheLargestFileOfAnyMachine) {
  const Directory directory;
  const std::string path = directory.path() + "/interrupts";
  constexpr off_t kBytes = 40 << 20;
  auto fd = open_at(AT_FDCWD, path, O_RDWR | O_CREAT, 0600);
  ASSERT_TRUE(fd);
  ASSERT_EQ(::ftruncate(fd->get(), kBytes), 0);
  std::string buffer;
  const auto text = pread_all(fd->get(), buffer);
  ASSERT_TRUE(text) << text.error().message();
  EXPECT_EQ(text->size(), std::size_t{kBytes});
}

TEST(ReplaceFile, ByManyAtOnce) {
  const Directory directory;
  const std::string path = directory.path() + "/file";
  std::vector<std::thread> threads;
  for (char c = 'a'; c < 'i'; ++c)
    threads.emplace_back([&path, c] {
      for (int i = 0; i < 50; ++i) {
        const auto replaced = replace_file(path, std::string(10000, c), 0640, false);
        EXPECT_TRUE(replaced) << replaced.error().message();
        const auto text = read_file(path);
        ASSERT_TRUE(text);
        EXPECT_EQ(*text, std::string(10000, text->front()));
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(read_names_at(AT_FDCWD, directory.path())->size(), 1u);
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0640u);
}

TEST(ReplaceFile, OneThatFailsLeavesNothing) {
  const Directory directory;
  const std::string path = directory.path() + "/folder";
  ASSERT_EQ(::mkdir(path.c_str(), 0700), 0);
  EXPECT_EQ(replace_file(path, "text").error().code, EISDIR);
  EXPECT_EQ(replace_file(directory.path() + "/absent/file", "text").error().code, ENOENT);
  EXPECT_EQ(read_names_at(AT_FDCWD, directory.path())->size(), 1u);
}

}  // namespace
}  // namespace umwelt
