// SPDX-License-Identifier: Apache-2.0
#include "fusefs/placement.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <future>
#include <memory>
#include <thread>

#include "intercept/task.h"

namespace umwelt::fusefs {
namespace {

// A process that only waits, on these CPUs.
class Caller {
 public:
  explicit Caller(const CpuSet& cpus) : pid(::fork()) {
    if (pid == 0)
      for (;;) ::pause();
    EXPECT_TRUE(intercept::set_affinity(pid, cpus));
  }
  ~Caller() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  const pid_t pid;
};

class PlacementTest : public ::testing::Test {
 protected:
  void SetUp() override {
    all_ = *intercept::get_affinity(0);
    if (all_.count() < 2) GTEST_SKIP() << "needs two CPUs";
    first_ = all_.first(1);
    second_ = all_.first(2) - first_;
    std::promise<pid_t> tid;
    thread_ = std::thread([this, &tid] {
      tid.set_value(::gettid());
      end_.get_future().wait();
    });
    tid_ = tid.get_future().get();
    placement_.add(tid_);
  }
  void TearDown() override {
    end_.set_value();
    if (thread_.joinable()) thread_.join();
  }

  void ask(const Caller& caller, unsigned requests) {
    for (unsigned n = 0; n < requests; ++n) placement_.on_request(caller.pid, now_ns_);
  }
  CpuSet cpus() const { return *intercept::get_affinity(tid_); }

  Placement placement_;
  CpuSet all_, first_, second_;
  std::uint64_t now_ns_ = 1;

 private:
  pid_t tid_ = 0;
  std::promise<void> end_;
  std::thread thread_;
};

TEST_F(PlacementTest, FollowsOneThatIsBoundAndAsksOften) {
  const Caller caller(second_);
  ask(caller, Placement::kFirstLook - 1);
  EXPECT_EQ(cpus(), all_);
  ask(caller, 1);
  EXPECT_EQ(cpus(), second_);
  for (unsigned n = 0; n < 1000; ++n) placement_.on_request(0, now_ns_);
  EXPECT_EQ(cpus(), second_) << "what the kernel asks by itself says nothing";
}

TEST_F(PlacementTest, DoesNotFollowOneThatMayRunAnywhere) {
  const Caller caller(all_);
  ask(caller, 1000);
  EXPECT_EQ(cpus(), all_);
}

TEST_F(PlacementTest, SeesWhenTheCallerIsBoundElsewhere) {
  const Caller caller(second_);
  ask(caller, Placement::kFirstLook);
  ASSERT_TRUE(intercept::set_affinity(caller.pid, first_));
  ask(caller, Placement::kLookEvery);
  EXPECT_EQ(cpus(), first_);
  ASSERT_TRUE(intercept::set_affinity(caller.pid, all_));
  ask(caller, Placement::kLookEvery);
  EXPECT_EQ(cpus(), all_);
}

TEST_F(PlacementTest, StaysForTheNextOnTheSameCpu) {
  const Caller caller(second_), next(second_);
  ask(caller, Placement::kFirstLook);
  ask(next, 1);
  EXPECT_EQ(cpus(), second_);
  ask(next, 10);
  EXPECT_EQ(cpus(), second_);
}

TEST_F(PlacementTest, LetsGoWhenTwoAskInTurns) {
  const Caller caller(second_), next(second_);
  ask(caller, Placement::kFirstLook);
  ask(next, 1);
  ask(caller, 1);
  EXPECT_EQ(cpus(), all_);
}

TEST_F(PlacementTest, LetsGoForOneOnAnotherCpuAndStaysSoForAWhile) {
  const Caller caller(second_), other(first_);
  ask(caller, Placement::kFirstLook);
  ask(other, 1);
  EXPECT_EQ(cpus(), all_);
  now_ns_ += Placement::kPauseNs - 1;
  ask(caller, Placement::kFirstLook);
  EXPECT_EQ(cpus(), all_);
  ++now_ns_;
  ask(caller, Placement::kLookEvery);
  EXPECT_EQ(cpus(), second_);
}

TEST_F(PlacementTest, LetsGoOfOneThatIsGone) {
  auto caller = std::make_unique<Caller>(second_);
  const pid_t pid = caller->pid;
  ask(*caller, Placement::kFirstLook);
  EXPECT_EQ(cpus(), second_);
  caller.reset();
  for (unsigned n = 0; n < Placement::kLookEvery; ++n) placement_.on_request(pid, now_ns_);
  EXPECT_EQ(cpus(), second_) << "it can't ask: nothing has changed";
  const Caller other(all_);
  ask(other, 1);
  EXPECT_EQ(cpus(), all_);
}

}  // namespace
}  // namespace umwelt::fusefs
