// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "container/registry.h"
#include "kernel_fixture.h"

namespace umwelt::container {

class RegistryTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    registry_ = make();
  }
  std::unique_ptr<Registry> make() {
    auto registry = std::make_unique<Registry>(folder_ + "/records", hierarchies_, host_);
    const auto loaded = registry->load();
    EXPECT_TRUE(loaded) << loaded.error().message();
    loaded_ = loaded.value_or(0);
    return registry;
  }
  // A new daemon with the same directory.
  void restart() {
    registry_.reset();
    registry_ = make();
  }
  static Record record(const std::string& id, const TestCgroup& cgroup, pid_t init = 0) {
    Record record;
    record.id = id;
    record.cgroup_paths = cgroup.paths();
    record.init_pid = init;
    return record;
  }
  // Only of its init process is something known.
  static Record record_of(pid_t init) {
    Record record;
    record.id = "a";
    record.init_pid = init;
    return record;
  }
  std::string record_file(const std::string& id) const {
    return folder_ + "/records/" + id + ".json";
  }

  std::unique_ptr<Registry> registry_;
  unsigned loaded_ = 0;
};

}  // namespace umwelt::container
