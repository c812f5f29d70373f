// SPDX-License-Identifier: Apache-2.0
// What the tests here stand on: a scratch directory and host filesystems of their own, in a mount
// namespace of their own, so that nothing stays behind however a test ends.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "base/unique_fd.h"
#include "vdisk/store.h"

namespace umwelt::vdisk::test {

// Skips (as "needs NAME: why") what this machine can't run.
#define UMWELT_NEEDS(name, condition) \
  if (!(condition)) GTEST_SKIP() << "needs " name ": not on this machine"

// A mounted filesystem on a sparse file; gone with the object.
class HostFilesystem {
 public:
  // "ext4", "xfs", "btrfs", "tmpfs", or "root" (the one that holds /tmp). nullptr: not on this
  // machine.
  static std::unique_ptr<HostFilesystem> make(const std::string& type, std::uint64_t bytes);
  ~HostFilesystem();

  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }

 private:
  std::string path_, backing_;
  bool mounted_ = false;
  UniqueFd fd_;
};

const std::string& scratch_directory();

// An empty directory of this name there; its path.
std::string make_directory(const std::string& name);

// Runs a shell command; its exit code, with the output in `output`.
int shell(const std::string& command, std::string* output = nullptr);

// What is asked for in most tests.
Record wish(std::uint64_t bytes, Kind kind = Kind::kOverlay);

// The store in "vdisks" there; templates are shared by all tests.
Store open_store(const HostFilesystem& host, const Policy& policy);

// Whether it comes true within a minute: the kernel lets go of a vdisk shortly after its last user.
bool soon(const std::function<bool()>& condition);
bool idle(const Store& store, const std::string& name);
// Writes "kept" to upper/f of one that nobody has, and waits until nobody has it again.
void write_kept(const Store& store, const std::string& name);

unsigned attached_loops();  // of vdisks of this run

// Every test of a class derived from this runs on each host filesystem.
class OnEachHost : public testing::TestWithParam<const char*> {
 protected:
  static constexpr std::uint64_t kHostBytes = 3ULL << 30;
  void SetUp() override {
    host = HostFilesystem::make(GetParam(), kHostBytes);
    if (!host) GTEST_SKIP() << "needs " << GetParam() << ": no such filesystem or no maker for it";
  }
  Store open(const Policy& policy = {}) { return open_store(*host, policy); }
  std::unique_ptr<HostFilesystem> host;
};
#define UMWELT_ON_EACH_HOST(suite)                                                       \
  INSTANTIATE_TEST_SUITE_P(Host, suite, testing::Values("root", "ext4", "xfs", "btrfs"), \
                           [](const auto& instance) { return std::string(instance.param); })

}  // namespace umwelt::vdisk::test
