// SPDX-License-Identifier: Apache-2.0
#include "intercept/room.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/child_process.h"

namespace umwelt::intercept {
namespace {

// In a process of its own, below a filter with these flags.
Result<std::string> room_below(unsigned flags) {
  return run_apart([&]() -> Result<std::string> {
    sock_filter allow{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
    const sock_fprog filter{1, &allow};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter) < 0)
      return fail_errno("seccomp");
    for (int i = 0; i < 3; ++i) UMWELT_CHECK(check_room_for_listener());
    return "room";
  });
}

TEST(Room, IsThereUnlessAFilterHasAListener) {
  if (!check_room_for_listener()) GTEST_SKIP() << "needs to be below no listener";
  EXPECT_EQ(room_below(0).value_or("none"), "room");
  const auto none = room_below(SECCOMP_FILTER_FLAG_NEW_LISTENER);
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().text.find("one seccomp listener"), std::string::npos) << none.error().text;
}

}  // namespace
}  // namespace umwelt::intercept
