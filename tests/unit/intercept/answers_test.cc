// SPDX-License-Identifier: Apache-2.0
#include "intercept/answers.h"

#include <linux/sched.h>

#include <future>

#include "intercept/affinity.h"
#include "intercept/task.h"
#include "unit/container/kernel_fixture.h"

namespace umwelt::intercept {
namespace {

using container::Child;

class AnswersTest : public container::HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    cgroup_.emplace(hierarchies_, "-answers");
    record_.id = "test";
    record_.cgroup_paths = cgroup_->paths();
    make_answers({});
  }
  void make_answers(Answers::Cover cover) {
    const auto container = open(record_);
    ASSERT_TRUE(container) << container.error().message();
    answers_.emplace(*container, std::move(cover));
  }
  // This process asks for CPU 0 alone, for `target`.
  Reply choose(pid_t target, const std::function<bool()>& waiting) {
    static constexpr std::uint64_t kMask = 1;
    Request request;
    request.call = Call::kSchedSetaffinity;
    request.caller = static_cast<pid_t>(::syscall(SYS_gettid));
    request.args[0] = static_cast<std::uint64_t>(target);
    request.args[1] = sizeof kMask;
    request.args[2] = reinterpret_cast<std::uint64_t>(&kMask);
    return answers_->answer(request, waiting);
  }

  // A process that runs on all CPUs asks as libnuma does.
  void ask_like_libnuma() {
    const Child caller;
    ASSERT_TRUE(caller.ok());
    Request request;
    request.call = Call::kSchedGetaffinity;
    request.caller = caller.pid();
    request.args[1] = 4096 / 8;
    answers_->answer(request, [] { return false; });
  }

  std::optional<container::TestCgroup> cgroup_;
  container::Record record_;
  std::optional<Answers> answers_;
};

// A process of this number.
pid_t clone_with_pid(pid_t pid) {
  clone_args args{};
  args.exit_signal = SIGCHLD;
  args.set_tid = reinterpret_cast<std::uint64_t>(&pid);
  args.set_tid_size = 1;
  const long made = ::syscall(SYS_clone3, &args, sizeof args);
  if (made == 0)
    for (;;) ::pause();
  return static_cast<pid_t>(made);
}

TEST_F(AnswersTest, ATaskOfTheContainerIsGivenItsCpus) {
  const Child target(0, [&] { return cgroup_->attach(::getpid()); });
  ASSERT_TRUE(target.ok());
  EXPECT_EQ(choose(target.pid(), [] { return true; }).error, 0);
  EXPECT_EQ(get_affinity(target.pid())->count(), 1U);
}

TEST_F(AnswersTest, ATaskThatGotTheIdMeanwhileIsLeftAlone) {
  Child target(0, [&] { return cgroup_->attach(::getpid()); });
  ASSERT_TRUE(target.ok());
  const pid_t id = target.pid();
  pid_t next = -1;
  const Reply reply = choose(id, [&] {
    target.kill();
    std::this_thread::sleep_for(std::chrono::milliseconds(30));  // start times are in ticks
    next = clone_with_pid(id);
    return true;
  });
  ASSERT_EQ(next, id) << "the number was taken by another process";
  EXPECT_EQ(reply.error, ESRCH);
  EXPECT_EQ(*get_affinity(next), *get_affinity(::getpid()));
  ::kill(next, SIGKILL);
  ::waitpid(next, nullptr, 0);
}

// Nothing that takes long comes between the question whether the ids are right and their use.
TEST_F(AnswersTest, WhoeverHasTheLockIsWaitedForFirst) {
  const Child target(0, [&] { return cgroup_->attach(::getpid()); });
  ASSERT_TRUE(target.ok());
  std::future<void> other;
  choose(target.pid(), [&] {
    other = std::async(std::launch::async, [&] { answers_->container_changed(); });
    EXPECT_EQ(other.wait_for(std::chrono::milliseconds(100)), std::future_status::timeout);
    return true;
  });
}

TEST_F(AnswersTest, WhereAMountHungNoneIsMadeAgain) {
  if (::sysconf(_SC_NPROCESSORS_ONLN) < 2) GTEST_SKIP() << "needs 2 CPUs";
  record_.number = 1;
  cgroup_->write("cpu", cgroup_->v1("cpu") ? "cpu.cfs_quota_us" : "cpu.max", "100000");  // one
  int asked = 0, error = EPERM;
  make_answers([&](const container::Record&, pid_t) -> Result<void> {
    ++asked;
    return fail(error, "test");
  });
  ask_like_libnuma();
  ask_like_libnuma();
  EXPECT_EQ(asked, 2);
  error = ETIMEDOUT;
  ask_like_libnuma();
  ask_like_libnuma();
  EXPECT_EQ(asked, 3);
}

}  // namespace
}  // namespace umwelt::intercept
