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

  // Every request comes `after_ns` after the last one.
  void ask(const Caller& caller, unsigned requests, std::uint64_t after_ns = 10) {
    for (unsigned n = 0; n < requests; ++n) placement_.on_request(caller.pid, now_ns_ += after_ns);
  }
  // Up to the end of the window, from its begin on: the time of a request depends on where the
  // threads run.
  void ask_for_a_window(const Caller& caller, std::uint64_t anywhere_ns, std::uint64_t bound_ns) {
    ask(caller, Placement::kWindow, cpus() == all_ ? anywhere_ns : bound_ns);
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
  ask(caller, Placement::kFirstWindow - 1);
  EXPECT_EQ(cpus(), all_);
  ask(caller, 1);
  EXPECT_EQ(cpus(), second_);
  for (unsigned n = 0; n < 1000; ++n) placement_.on_request(0, now_ns_);
  EXPECT_EQ(cpus(), second_) << "what the kernel asks by itself says nothing";
}

TEST_F(PlacementTest, DoesNotFollowOneThatMayRunAnywhere) {
  const Caller caller(all_);
  ask(caller, 5000);
  EXPECT_EQ(cpus(), all_);
}

TEST_F(PlacementTest, SeesWhenTheCallerIsBoundElsewhere) {
  const Caller caller(second_);
  ask(caller, Placement::kFirstWindow);
  ASSERT_TRUE(intercept::set_affinity(caller.pid, first_));
  ask(caller, Placement::kWindow);
  ask(caller, 1);
  EXPECT_EQ(cpus(), all_);
  now_ns_ += Placement::kPauseNs;
  ask(caller, Placement::kFirstWindow);
  EXPECT_EQ(cpus(), first_);
  ASSERT_TRUE(intercept::set_affinity(caller.pid, all_));
  ask(caller, 2 * Placement::kWindow);
  EXPECT_EQ(cpus(), all_);
}

TEST_F(PlacementTest, KeepsWhatIsBetter) {
  for (const std::uint64_t bound_ns : {110U, 120U}) {
    const bool bound_is_better = bound_ns == 110;
    const Caller caller(bound_is_better ? first_ : second_),
        next(bound_is_better ? first_ : second_);
    const CpuSet better = bound_is_better ? first_ : all_, other = bound_is_better ? all_ : second_;
    ask(caller, Placement::kFirstWindow);
    ask_for_a_window(caller, 100, bound_ns);
    EXPECT_EQ(cpus(), all_) << "the other one is tried";
    ask_for_a_window(next, 100, bound_ns);
    for (unsigned window = 0; window < Placement::kKeep; ++window) {
      EXPECT_EQ(cpus(), better);
      ask_for_a_window(window % 2 == 0 ? caller : next, 100, bound_ns);
    }
    EXPECT_EQ(cpus(), other) << "and once more";
    const Caller elsewhere(all_);
    ask(elsewhere, 1);
    now_ns_ += Placement::kPauseNs;
    ask(caller, Placement::kFirstWindow);
    EXPECT_EQ(cpus(), better) << "it is known";
    ask(elsewhere, 1);
    now_ns_ += Placement::kPauseNs;
  }
}

TEST_F(PlacementTest, TimeInWhichNobodyAsksDoesNotCount) {
  const Caller caller(second_);
  ask(caller, Placement::kFirstWindow);
  ask_for_a_window(caller, 100, 50);
  ask_for_a_window(caller, 100, 50);
  for (unsigned window = 0; window < 3 * Placement::kKeep; ++window) {
    now_ns_ += 10 * Placement::kIdleNs;
    ask_for_a_window(caller, 100, 50);
  }
  ask_for_a_window(caller, 100, 50);
  EXPECT_EQ(cpus(), second_);
}

TEST_F(PlacementTest, ServesSeveralOnTheSameCpu) {
  const Caller caller(second_), next(second_);
  ask(caller, Placement::kFirstWindow);
  for (unsigned n = 0; n < 10; ++n) {
    ask(next, 1);
    ask(caller, 1);
  }
  EXPECT_EQ(cpus(), second_);
}

TEST_F(PlacementTest, LetsGoForOneOnAnotherCpuAndStaysSoForAWhile) {
  const Caller caller(second_), other(first_);
  ask(caller, Placement::kFirstWindow);
  ask(other, 1, 0);
  EXPECT_EQ(cpus(), all_);
  now_ns_ += Placement::kPauseNs - 1;
  ask(caller, Placement::kFirstWindow, 0);
  EXPECT_EQ(cpus(), all_);
  ++now_ns_;
  ask(caller, Placement::kFirstWindow, 0);
  EXPECT_EQ(cpus(), second_);
}

TEST_F(PlacementTest, LetsGoOfOneThatIsGone) {
  auto caller = std::make_unique<Caller>(second_);
  const pid_t pid = caller->pid;
  ask(*caller, Placement::kFirstWindow);
  EXPECT_EQ(cpus(), second_);
  caller.reset();
  for (unsigned n = 0; n < Placement::kFirstWindow; ++n) placement_.on_request(pid, now_ns_);
  EXPECT_EQ(cpus(), second_) << "it can't ask: nothing has changed";
  const Caller other(all_);
  ask(other, 1);
  EXPECT_EQ(cpus(), all_);
}

}  // namespace
}  // namespace umwelt::fusefs
