// SPDX-License-Identifier: Apache-2.0
#include "fusefs/triggers.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <condition_variable>

namespace umwelt::fusefs {
namespace {

// A socket takes the text of a trigger as a pressure file does, and urgent data raises EPOLLPRI.
class TriggersTest : public testing::Test {
 protected:
  Triggers::Wanted wanted(std::shared_ptr<const void> container, uid_t user = 0) {
    return {std::move(container), user, "some 1 2000000", [this]() -> Result<UniqueFd> {
              int pair[2];
              if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
                return fail_errno("socketpair");
              peers_.push_back(UniqueFd(pair[1]));
              return UniqueFd(pair[0]);
            }};
  }

  int arm(std::uint64_t handle, Triggers::Wanted what) {
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<int> code;
    triggers_->arm(handle, std::move(what), [&](const Result<void>& result) {
      const std::lock_guard lock(mutex);
      code = result ? 0 : result.error().code;
      changed.notify_all();
    });
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return code.has_value(); });
    return *code;
  }

  void wait_until_ended() {
    while (triggers_->size() > 0) ::usleep(1000);
  }

  std::shared_ptr<int> container_ = std::make_shared<int>(0), other_ = std::make_shared<int>(1);
  std::vector<UniqueFd> peers_;  // of the thread alone, until it has ended
  std::unique_ptr<Triggers> triggers_ = *Triggers::start();
};

TEST_F(TriggersTest, OneForAFile) {
  EXPECT_EQ(triggers_->poll(7, {}), POLLERR | POLLPRI);
  EXPECT_EQ(arm(7, wanted(container_)), 0);
  EXPECT_EQ(triggers_->poll(7, {}), 0);
  EXPECT_EQ(arm(7, wanted(container_)), EBUSY);
  triggers_->release(7);
  wait_until_ended();
  EXPECT_EQ(triggers_->poll(7, {}), POLLERR | POLLPRI);
  EXPECT_EQ(arm(7, wanted(container_)), 0);
}

TEST_F(TriggersTest, NumbersAreBounded) {
  std::uint64_t handle = 1;
  for (std::size_t i = 0; i < Triggers::kMaxOfUser; ++i)
    EXPECT_EQ(arm(handle++, wanted(container_, 1000)), 0);
  EXPECT_EQ(arm(handle++, wanted(container_, 1000)), ENOSPC);
  EXPECT_EQ(arm(handle++, wanted(other_, 1000)), 0);
  while (triggers_->size() < Triggers::kMaxOfContainer + 1)
    EXPECT_EQ(arm(handle++, wanted(container_, 0)), 0);
  EXPECT_EQ(arm(handle++, wanted(container_, 0)), ENOSPC);
  // What is closed makes room for who waits in the same queue.
  triggers_->release(1);
  EXPECT_EQ(arm(handle++, wanted(container_, 0)), 0);
  EXPECT_EQ(triggers_->size(), Triggers::kMaxOfContainer + 1);
}

TEST_F(TriggersTest, TheNumberInAllIsBounded) {
  std::vector<std::shared_ptr<int>> containers;
  for (std::uint64_t handle = 1; handle <= Triggers::kMax; ++handle) {
    if ((handle - 1) % Triggers::kMaxOfContainer == 0)
      containers.push_back(std::make_shared<int>(0));
    ASSERT_EQ(arm(handle, wanted(containers.back())), 0) << handle;
  }
  EXPECT_EQ(arm(Triggers::kMax + 1, wanted(container_)), ENOSPC);
}

TEST_F(TriggersTest, AFailureOfTheKernelIsPassedOn) {
  Triggers::Wanted what = wanted(container_);
  what.open = []() -> Result<UniqueFd> { return fail(EOPNOTSUPP, "open"); };
  EXPECT_EQ(arm(1, what), EOPNOTSUPP);
  EXPECT_EQ(triggers_->size(), 0U);
}

TEST_F(TriggersTest, ThatTheFileIsBrokenIsTold) {
  ASSERT_EQ(arm(1, wanted(container_)), 0);
  std::mutex mutex;
  std::condition_variable changed;
  bool woken = false;
  EXPECT_EQ(triggers_->poll(1,
                            [&] {
                              const std::lock_guard lock(mutex);
                              woken = true;
                              changed.notify_all();
                            }),
            0);
  peers_.clear();  // hangs up; a broken pressure file says so by EPOLLERR
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return woken; });
}

TEST_F(TriggersTest, AfterStopNothingIsLeft) {
  ASSERT_EQ(arm(1, wanted(container_)), 0);
  triggers_->release(1);
  ASSERT_EQ(arm(2, wanted(container_)), 0);
  triggers_->stop();
  EXPECT_EQ(triggers_->size(), 0U);
  EXPECT_EQ(arm(3, wanted(container_)), ESHUTDOWN);
  EXPECT_EQ(triggers_->poll(2, {}), POLLERR | POLLPRI);
  triggers_->release(2);
}

TEST(HasSlowWindow, ReadsTheWholeText) {
  EXPECT_EQ(*has_slow_window("some 150000 2000000"), true);
  EXPECT_EQ(*has_slow_window("full 1 10000000"), true);
  EXPECT_EQ(*has_slow_window("some 150000 1000000"), false);
  for (const char* text : {"", "some", "some 1", "any 1 2000000", "some -1 2000000",
                           "some 1 2000000 3", "some x 2000000", "SOME 1 2000000"})
    EXPECT_FALSE(has_slow_window(text)) << text;
}

TEST(MayUseAnyWindow, FollowsTheCapability) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  ASSERT_EQ(::syscall(SYS_capget, &header, data), 0);
  EXPECT_EQ(may_use_any_window(::getpid()), (data[0].effective >> CAP_SYS_RESOURCE & 1U) != 0);
  EXPECT_FALSE(may_use_any_window(1U << 22));
}

}  // namespace
}  // namespace umwelt::fusefs
