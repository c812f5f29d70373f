// SPDX-License-Identifier: Apache-2.0
#include "oci/hook.h"

#include <gtest/gtest.h>

namespace umwelt::oci {
namespace {

container::Record record(const std::string& id, pid_t init_pid) {
  container::Record made;
  made.id = id;
  made.init_pid = init_pid;
  return made;
}

TEST(Hook, ARecordIsOfTheIdOrOfTheSameInAnotherRuntime) {
  EXPECT_TRUE(is_record_of(record("web", 4711), "web"));
  EXPECT_TRUE(is_record_of(record("web-4711", 4711), "web"));
  const std::string longest(64, 'x');
  EXPECT_TRUE(is_record_of(record(longest.substr(0, 50) + "-4711", 4711), longest));
}

TEST(Hook, AnotherContainersNameMayBeginWithIt) {
  EXPECT_FALSE(is_record_of(record("web-db", 4711), "web"));
  EXPECT_FALSE(is_record_of(record("web-47", 4711), "web"));
  EXPECT_FALSE(is_record_of(record("web2", 4711), "web"));
}

}  // namespace
}  // namespace umwelt::oci
