// SPDX-License-Identifier: Apache-2.0
#include "intercept/server.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "intercept/notice.h"
#include "intercept/paths.h"
#include "intercept/process_state.h"
#include "intercepted.h"
#include "unit/container/kernel_fixture.h"

namespace umwelt::intercept {
namespace {

constexpr int kFaults = 100;  // the descriptor's number in the child
#ifdef __SANITIZE_THREAD__
constexpr std::size_t kOwnThreads = 2;  // the sanitizer has one
#else
constexpr std::size_t kOwnThreads = 1;
#endif

// Calls with memory that is filled by whoever has its faults: nobody.
int call_with_memory_that_nobody_fills() {
  void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const int faults = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  uffdio_api api{};
  api.api = UFFD_API;
  uffdio_register memory{};
  memory.range = {reinterpret_cast<std::uint64_t>(page), 4096};
  memory.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (faults < 0 || ::ioctl(faults, UFFDIO_API, &api) != 0 ||
      ::ioctl(faults, UFFDIO_REGISTER, &memory) != 0 || ::dup2(faults, kFaults) < 0)
    return 1;
  ::syscall(SYS_sysinfo, page);
  return 0;
}

std::size_t threads() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/task"))
    ++count;
  return count;
}

class ServerTest : public container::KernelTest {
 protected:
  void SetUp() override {
    KernelTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    auto host = host::Reader::open();
    ASSERT_TRUE(host);
    registry_.emplace(folder_ + "/records", hierarchies_, std::move(*host));
    ASSERT_TRUE(registry_->load());
  }
  Server::Keeping keeping() {
    return {[](const std::string&, int) -> Result<void> { return {}; },
            [this](const std::string& name) {
              const std::lock_guard lock(mutex_);
              dropped_.insert(name);
            },
            [](const std::string&) -> Result<void> { return {}; }};
  }
  bool dropped(const std::string& name) {
    const std::lock_guard lock(mutex_);
    return dropped_.contains(name);
  }

  std::optional<container::Registry> registry_;
  std::mutex mutex_;
  std::set<std::string> dropped_;
};

TEST_F(ServerTest, ACallerThatDiedWithTheAnswerHalfWrittenHoldsNobodyUp) {
  container::TestCgroup cgroup(hierarchies_, "-stuck");
  container::Record record;
  record.id = "web";
  record.cgroup_paths = cgroup.paths();
  ASSERT_TRUE(registry_->add(record));
  // Forked as long as there is no other thread: it may have a lock of the allocator, as the one
  // that opened the cgroup while it ends.
  ASSERT_TRUE(container::wait_until([] { return threads() == kOwnThreads; }));
  std::optional<Intercepted> caller(std::in_place, call_with_memory_that_nobody_fills);
  Intercepted next([] { return 0; });
  auto started = Server::start(folder_, *registry_, keeping(), {}, {});
  ASSERT_TRUE(started) << started.error().message();
  std::unique_ptr<Server> server = std::move(*started);
  const auto hand = [&](const Intercepted& process) {
    return hand_over(socket_path(folder_), "web", process.listener(), Notice::create()->get());
  };

  UniqueFd faults;
  {
    ASSERT_TRUE(hand(*caller));
    const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, caller->pid(), 0)));
    const auto there = container::wait_until([&] {
      faults.reset(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), kFaults, 0)));
      return static_cast<bool>(faults);
    });
    if (!there) GTEST_SKIP() << "needs userfaultfd";
    pollfd fault{faults.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&fault, 1, 5000), 1) << "nobody writes the answer";
    ASSERT_EQ(fault.revents, POLLIN);
    caller.reset();
  }
  EXPECT_TRUE(container::wait_until([&] { return dropped("listener/web/1"); }));
  EXPECT_TRUE(container::wait_until([&] { return dropped("notice/web/1"); }));
  if (!HasFailure()) {
    EXPECT_TRUE(hand(next));
    server.reset();
  }
  faults.reset();
  EXPECT_TRUE(container::wait_until([&] { return threads() <= kOwnThreads + (server ? 1 : 0); }));
}

}  // namespace
}  // namespace umwelt::intercept
