// SPDX-License-Identifier: Apache-2.0
#include "fusefs/server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "base/child_process.h"
#include "base/log.h"
#include "base/parse.h"
#include "fusefs/daemon.h"
#include "fusefs/descriptor_store.h"
#include "fusefs/keeper_channel.h"
#include "fusefs/process.h"
#include "fusefs/upgrade.h"

namespace umwelt::fusefs {
namespace {

using namespace std::chrono_literals;

constexpr auto kStuckAfter = 1500ms;
constexpr std::string_view kKept = "kept/";

std::map<std::string, UniqueFd> take_kept(Holdings& holdings) {
  std::map<std::string, UniqueFd> kept;
  std::vector<std::string> names;
  for (const auto& [name, fd] : holdings.items())
    if (name.starts_with(kKept)) names.push_back(name);
  for (const std::string& name : names) kept[name.substr(kKept.size())] = holdings.take(name);
  return kept;
}

class Server {
 public:
  Server(const Options& options, Holdings holdings)
      : options_(options),
        channel_(holdings.take("channel")),
        store_(channel_, take_kept(holdings)),
        holdings_(std::move(holdings)),
        upgrade_(channel_) {}

  Result<void> run();

 private:
  Result<bool> wait_for_go();
  Result<bool> next_message();
  bool on_message(const Message& message);
  Result<void> start_keeper(std::map<std::string, UniqueFd> kept);

  const Options& options_;
  KeeperChannel channel_;
  DescriptorStore store_;
  Holdings holdings_;
  Upgrade upgrade_;
  std::atomic<pid_t> keeper_pid_{0};
  std::atomic<bool> unmounted_{false};  // by somebody else
  std::unique_ptr<Daemon> daemon_;
};

Result<void> Server::run() {
  UMWELT_CHECK(die_with_parent(false));  // the keeper's doing, for an upgrade
  UMWELT_CHECK(hold_until_death(holdings_.take("life")));
  daemon_ = UMWELT_TRY(Daemon::prepare(options_));
  // Fails when the keeper has just died: the loop below sees that.
  (void)channel_.send(Verb::kPrepared);
  if (!UMWELT_TRY(wait_for_go())) return {};
  UMWELT_CHECK(daemon_->serve(
      holdings_,
      {.store = store_,
       .keeper_pid = [this] { return keeper_pid_.load(); },
       .upgrade = [this](const std::string& program) { return upgrade_.request(program); },
       .on_unmounted =
           [this] {
             unmounted_ = true;
             (void)channel_.send(Verb::kUnmounted);
           },
       .guard =
           [this](const std::string& suffix) { return channel_.send(Verb::kGuard, suffix); }}));
  if (!options_.foreground)
    UMWELT_CHECK(leave_terminal(options_.directories.runtime + "/umweltd.log"));
  (void)channel_.send(Verb::kReady);
  daemon_->look_after_containers();

  sigset_t stop;
  ::sigemptyset(&stop);
  ::sigaddset(&stop, SIGTERM);
  const UniqueFd signals(::signalfd(-1, &stop, SFD_CLOEXEC));
  if (!signals) return fail_errno("signalfd");
  for (;;) {
    pollfd entries[] = {{channel_.fd(), POLLIN, 0}, {signals.get(), POLLIN, 0}};
    ::poll(entries, 2, -1);
    if (entries[1].revents != 0) break;
    if (!UMWELT_TRY(next_message())) break;
  }
  upgrade_.settle();
  daemon_.reset();
  return {};
}

// False: it is not needed any more.
Result<bool> Server::wait_for_go() {
  for (;;) {
    pollfd entry{channel_.fd(), POLLIN, 0};
    ::poll(&entry, 1, -1);
    auto message = channel_.receive();
    if (!message && message.error().code == EAGAIN) continue;
    if (!message || !*message) return false;
    on_message(**message);
    if ((*message)->verb == Verb::kRetire) return false;
    if ((*message)->verb == Verb::kGo) return true;
  }
}

// False: the end.
Result<bool> Server::next_message() {
  auto message = channel_.receive();
  if (!message && message.error().code == EAGAIN) return true;
  if (!message) return fail(message.error());
  if (*message) return on_message(**message);
  int status = 0;
  if (keeper_pid_ > 0 && ::waitpid(keeper_pid_, &status, WNOHANG) > 0 && WIFEXITED(status))
    spdlog::error("the keeper exited with status {}", WEXITSTATUS(status));
  spdlog::warn("the keeper is gone: starting another");
  upgrade_.refuse("the keeper has died");
  UMWELT_CHECK(store_.hand_over([this](auto kept) { return start_keeper(std::move(kept)); }));
  return true;
}

bool Server::on_message(const Message& message) {
  switch (message.verb) {
    case Verb::kGo:
    case Verb::kPing:
      keeper_pid_ = static_cast<pid_t>(parse_u64(message.text).value_or(0));
      if (message.verb == Verb::kPing && !daemon_->is_stuck(kStuckAfter))
        (void)channel_.send(Verb::kPong);
      return true;
    case Verb::kRefused:
      upgrade_.refuse(message.text);
      return true;
    case Verb::kRetire:
      return false;
    default:
      return true;
  }
}

Result<void> Server::start_keeper(std::map<std::string, UniqueFd> kept) {
  auto [mine, theirs] = UMWELT_TRY(KeeperChannel::make_pair());
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  UniqueFd life(ends[0]), my_life(ends[1]);
  UMWELT_CHECK(hold_until_death(std::move(my_life)));
  Holdings all = UMWELT_TRY(holdings_.duplicate());
  for (auto& [name, fd] : kept) all.put(std::string(kKept) + name, std::move(fd));
  all.put("channel", std::move(theirs));
  all.put("life", std::move(life));
  all.put("server", UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0))));
  Successor keeper =
      UMWELT_TRY(Successor::make(all, arguments_for("/proc/self/exe", options_.arguments)));
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child == 0) ::_exit(keeper.run());  // an errno: next_message() shows it
  keeper_pid_ = child;
  channel_.replace(std::move(mine));
  // Maybe only the keeper before it was told.
  if (unmounted_) (void)channel_.send(Verb::kUnmounted);
  return {};
}

}  // namespace

int run_server(const Options& options, Holdings holdings) {
  ::prctl(PR_SET_NAME, "umweltd-server");
  // malloc_trim(3) gives nothing back from the end of a thread's own arena, where most of what 500
  // containers needed would stay; and reads allocate too little to wait for each other.
  ::mallopt(M_ARENA_MAX, 1);
  Server server(options, std::move(holdings));
  if (const auto result = server.run(); !result) {
    fmt::print(stderr, "umweltd: {}\n", result.error().message());
    return 1;
  }
  return 0;
}

}  // namespace umwelt::fusefs
