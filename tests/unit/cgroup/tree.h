// SPDX-License-Identifier: Apache-2.0
// A folder with cgroup files as Reader::open() takes it for a root; removed at the end.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace umwelt::cgroup {

class Tree {
 public:
  Tree() {
    // In memory where there is such a place: some trees have thousands of files.
    std::string name = "/dev/shm/umwelt-cgroup-XXXXXX";
    if (!::mkdtemp(name.data())) {
      name = (std::filesystem::temp_directory_path() / "umwelt-cgroup-XXXXXX").string();
      if (!::mkdtemp(name.data())) throw std::filesystem::filesystem_error(name, {});
    }
    root_ = name;
  }
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;
  ~Tree() { std::filesystem::remove_all(root_); }

  std::string root() const { return root_.string(); }
  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  void remove(const std::string& path) const { std::filesystem::remove_all(root_ / path); }

 private:
  std::filesystem::path root_;
};

}  // namespace umwelt::cgroup
