// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <set>

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

}  // namespace
}  // namespace umwelt
