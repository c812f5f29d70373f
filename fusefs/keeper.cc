// SPDX-License-Identifier: Apache-2.0
#include "fusefs/keeper.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/child_process.h"
#include "base/file.h"
#include "base/log.h"
#include "fusefs/connection.h"
#include "fusefs/mounts.h"
#include "fusefs/process.h"
#include "intercept/paths.h"

namespace umwelt::fusefs {
namespace {

using namespace std::chrono_literals;
using Clock = ServerProcess::Clock;
using State = ServerProcess::State;

constexpr auto kStartPatience = 30000ms;  // from kGo to kReady
constexpr auto kRetirePatience = 5000ms;
constexpr auto kMaxDelay = 1000ms;
constexpr const char* kKept = "kept/";

// What systemd keeps for us: not the locks, which must be free when nobody of us is left.
bool worth_storing(const std::string& name) {
  return name == "journal" || name == "listener" || name.starts_with(kKept) ||
         std::any_of(kConnectionKinds.begin(), kConnectionKinds.end(), [&](const auto& kind) {
           return name.starts_with(std::string(kind.name) + ".");
         });
}

}  // namespace

Keeper::Keeper(const Options& options)
    : options_(options), program_(program_path()), manager_(ServiceManager::from_environment()) {}

Keeper::~Keeper() = default;

Result<std::unique_ptr<Keeper>> Keeper::make(const Options& options, Holdings inherited) {
  std::unique_ptr<Keeper> keeper(new Keeper(options));
  keeper->holdings_ = std::move(inherited);
  UMWELT_CHECK(keeper->take_runtime());
  if (const auto made = keeper->make_mounts(); !made) {
    keeper->clean_up();
    return fail(made.error());
  }
  UMWELT_CHECK(keeper->open_signals());
  keeper->adopt_server();
  keeper->adopt_guard();
  return keeper;
}

Result<void> Keeper::open_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR2})
    ::sigaddset(&signals, signal);
  signals_.reset(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return fail_errno("signalfd");
  return {};
}

// One that serves already, when this program took over from an earlier keeper.
void Keeper::adopt_server() {
  if (!holdings_.contains("server") || !holdings_.contains("channel")) return;
  UniqueFd pidfd = holdings_.take("server");
  const pid_t pid = pid_of(pidfd.get());
  server_ = std::make_unique<ServerProcess>(pid, std::move(pidfd), holdings_.take("channel"),
                                            holdings_.take("life"));
  server_->enter(State::kServing);
  server_->ready = true;
  server_->ready_at = Clock::now();
  spdlog::info("keeper {} goes on with server {}", ::getpid(), pid);
}

Result<std::unique_ptr<ServerProcess>> Keeper::spawn(const std::string& program) {
  auto [mine, theirs] = UMWELT_TRY(KeeperChannel::make_pair());
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  UniqueFd life(ends[0]), their_life(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return fail_errno("fork");
  if (pid == 0) {
    Holdings extra;
    extra.put("channel", std::move(theirs));
    extra.put("life", std::move(their_life));
    mine.reset();
    life.reset();
    become_server(std::move(extra), program);
  }
  UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd) {
    const auto error = fail_errno("pidfd_open");
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return error;
  }
  auto child =
      std::make_unique<ServerProcess>(pid, std::move(pidfd), std::move(mine), std::move(life));
  child->program = program;
  return child;
}

void Keeper::become_server(Holdings&& extra, const std::string& program) {
  server_.reset();
  candidate_.reset();
  corpses_.clear();
  signals_.reset();
  guard_.reset();
  for (const char* name : {"channel", "life"}) holdings_.put(name, extra.take(name));
  if (program.empty()) std::exit(run_server_(options_, std::move(holdings_)));
  (void)die_with_parent(true);  // maybe it is no umweltd, which would not notice
  const Error error = std::move(holdings_).exec(arguments_for(program, options_.arguments));
  spdlog::error("{}", error.message());
  ::_exit(127);
}

void Keeper::restart() {
  auto spawned = spawn("");
  if (!spawned) {
    spdlog::error("start a server: {}", spawned.error().message());
    restart_at_ = Clock::now() + kMaxDelay;
    return;
  }
  server_ = *std::move(spawned);
  server_->enter(State::kStarting);
  (void)server_->channel.send(Verb::kGo, std::to_string(::getpid()));
}

void Keeper::adopt_guard() {
  if (holdings_.contains("guard")) guard_.emplace(holdings_.take("guard"));
  for (const auto& [name, fd] : holdings_.items())
    if (name.starts_with(kGuarded)) guarded_.insert(name.substr(std::strlen(kGuarded)));
  for (const std::string& suffix : guarded_) holdings_.drop(kGuarded + suffix);
}

bool Keeper::add_to_guard(const std::string& suffix) {
  const std::string listener = kKept + ("listener/" + suffix),
                    notice = kKept + ("notice/" + suffix);
  if (!holdings_.contains(listener) || !holdings_.contains(notice)) return true;
  const auto added = guard_->add(suffix.substr(0, suffix.rfind('/')), holdings_.get(listener),
                                 holdings_.get(notice));
  if (!added) spdlog::error("{}", added.error().message());
  return added.has_value();
}

// One is there as long as something is to be guarded: also after it was killed.
void Keeper::see_to_guard() {
  const Clock::time_point now = Clock::now();
  if (guard_) {
    pollfd entry{guard_->fd(), POLLIN, 0};
    if (::poll(&entry, 1, 0) <= 0) return;
    guard_.reset();
  }
  if (guarded_.empty() || now < guard_at_) return;
  guard_at_ = now + kMaxDelay;
  auto started = intercept::Guard::start(options_.directories.runtime);
  if (!started) return spdlog::error("{}", started.error().message());
  guard_ = *std::move(started);
  for (const std::string& suffix : guarded_)
    if (!add_to_guard(suffix)) return;
}

// --- what happens --------------------------------------------------------------------------------

int Keeper::poll_timeout() const {
  const Clock::time_point now = Clock::now();
  Clock::time_point next = now + 10s;
  const auto at = [&](Clock::time_point time) { next = std::min(next, time); };
  if (!server_) at(restart_at_);
  if (!guard_ && !guarded_.empty()) at(guard_at_);
  for (const ServerProcess* child : {server_.get(), candidate_.get()}) {
    if (child == nullptr) continue;
    at(child->next_look());
  }
  if (const auto interval = manager_.watchdog_interval()) at(now + *interval);
  const auto wait = std::chrono::ceil<std::chrono::milliseconds>(next - now);
  return static_cast<int>(std::clamp<std::int64_t>(wait.count(), 0, 10000));
}

void Keeper::wait() {
  std::vector<pollfd> entries = {{signals_.get(), POLLIN, 0},
                                 {guard_ ? guard_->fd() : -1, POLLIN, 0}};
  for (const ServerProcess* child : {server_.get(), candidate_.get()}) {
    if (child == nullptr) continue;
    entries.push_back({child->pidfd.get(), POLLIN, 0});
    entries.push_back({child->hung_up ? -1 : child->channel.fd(), POLLIN, 0});
    entries.push_back({child->hung_up ? -1 : child->life.get(), POLLIN, 0});
  }
  ::poll(entries.data(), entries.size(), poll_timeout());
}

void Keeper::on_signal() {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo == SIGUSR2) {
      start_upgrade("");
    } else if (!stopping_) {
      spdlog::info("stopping on {}", ::strsignal(static_cast<int>(info.ssi_signo)));
      leaves_all_ = info.ssi_signo == SIGQUIT && manager_.exists();
      begin_stop();
    }
  }
}

void Keeper::receive(ServerProcess& child) {
  for (;;) {
    auto received = child.channel.receive();
    if (!received) return;  // EAGAIN
    if (!*received) {
      child.hung_up = true;
      return;
    }
    Message& message = **received;
    switch (message.verb) {
      case Verb::kPrepared:
        if (&child == candidate_.get()) child.enter(State::kPrepared);
        break;
      case Verb::kReady:
        child.ready = has_served_ = true;
        child.ready_at = child.next_ping = Clock::now();
        if (child.state == State::kStarting) child.enter(State::kServing);
        break;
      case Verb::kPong:
        child.pinged.reset();
        break;
      case Verb::kKeep:
        if (!message.fd) break;
        manager_.drop(kKept + message.text);
        manager_.keep(kKept + message.text, message.fd.get());
        holdings_.put(kKept + message.text, std::move(message.fd));
        break;
      case Verb::kDrop:
        manager_.drop(kKept + message.text);
        holdings_.drop(kKept + message.text);
        if (message.text.starts_with("listener/")) guarded_.erase(message.text.substr(9));
        break;
      case Verb::kGuard:
        guarded_.insert(message.text);
        if (guard_) (void)add_to_guard(message.text);  // else see_to_guard()
        break;
      case Verb::kUpgrade:
        start_upgrade(message.text);
        break;
      case Verb::kUnmounted:
        spdlog::error("the filesystem was unmounted by somebody else: stopping");
        begin_stop();
        break;
      default:
        break;
    }
  }
}

void Keeper::see_to_server() {
  const Clock::time_point now = Clock::now();
  if (server_) {
    ServerProcess& child = *server_;
    const bool dead = child.is_dead(/*may_wait_for_page=*/true);
    receive(child);
    if (!dead) {
      const auto age = now - child.since;
      if (child.state == State::kServing) child.check_heartbeat();
      if (child.state == State::kStarting && age > kStartPatience) child.kill();
      if (child.state == State::kRetiring && age > kRetirePatience) child.kill();
      if (child.state == State::kDying && age > 1s) child.kill();  // again
      return;
    }
    if (child.is_corpse) {
      spdlog::warn("server {} is killed and waits for its successor", child.pid);
      corpses_.push_back(std::move(child.pidfd));
    }
    const bool asked_to = child.ending;
    const bool crashed = child.wait_status != -SIGKILL && !child.lived_long();
    if (!asked_to && !stopping_)
      spdlog::warn("server {} {}", child.pid,
                   child.wait_status < 0 ? fmt::format("was ended by signal {}", -child.wait_status)
                                         : fmt::format("exited with status {}", child.wait_status));
    const bool never_ready = !child.ready;
    failed_starts_ = !asked_to && (never_ready || crashed) ? failed_starts_ + 1 : 0;
    server_.reset();
    successor_.clear();
    const auto delay = failed_starts_ <= 1 ? 0ms : 10ms * (1 << std::min(failed_starts_ - 2, 7U));
    restart_at_ = now + std::min<std::chrono::milliseconds>(delay, kMaxDelay);
    if (stopping_ || (!has_served_ && never_ready)) finished_ = true;
  }
  if (server_ || stopping_ || finished_) return;
  if (candidate_ && candidate_->state == State::kPrepared) {
    server_ = std::move(candidate_);
    successor_ = server_->program;
    server_->enter(State::kStarting);
    (void)server_->channel.send(Verb::kGo, std::to_string(::getpid()));
  } else if (now >= restart_at_) {
    restart();
  }
}

void Keeper::reap() {
  std::erase_if(corpses_, [](const UniqueFd& pidfd) {
    siginfo_t info{};
    return ::waitid(P_PIDFD, static_cast<id_t>(pidfd.get()), &info, WEXITED | WNOHANG) != 0 ||
           info.si_pid != 0;
  });
}

void Keeper::begin_stop() {
  if (stopping_) return;
  stopping_ = true;
  manager_.notify("STOPPING=1");
  if (candidate_) candidate_->kill();
  candidate_.reset();
  if (!server_) {
    finished_ = true;
    return;
  }
  server_->ending = true;
  if (server_->state == State::kDying) return;
  server_->enter(State::kRetiring);
  (void)server_->channel.send(Verb::kRetire);
}

Result<void> Keeper::run(const RunServer& run_server,
                         const std::function<Result<void>()>& on_ready) {
  run_server_ = run_server;
  Clock::time_point next_watchdog;
  while (!finished_) {
    on_signal();
    see_to_candidate();
    see_to_server();
    see_to_guard();
    reap();
    if (server_ && server_->state == State::kServing) {
      has_served_ = true;  // also one that another keeper started
      if (!announced_) {
        announced_ = true;
        if (auto told = on_ready(); !told) {
          spdlog::error("{}", told.error().message());
          begin_stop();
        }
        for (const auto& [name, fd] : holdings_.items())
          if (worth_storing(name)) manager_.keep(name, fd.get());
        manager_.notify("READY=1");
      }
      if (!successor_.empty() && !stopping_) become_successor();
      const auto interval = manager_.watchdog_interval();
      if (interval && Clock::now() >= next_watchdog) {
        manager_.notify("WATCHDOG=1");
        next_watchdog = Clock::now() + *interval;
      }
    }
    if (!finished_) wait();
  }
  if (!leaves_all_) clean_up();
  if (!has_served_) return fail(0, "");  // the server has said why
  return {};
}

void Keeper::clean_up() {
  for (const auto& [name, fd] : holdings_.items())
    if (worth_storing(name)) manager_.drop(name);
  const bool bound = holdings_.contains("listener");
  const UniqueFd locks[] = {holdings_.take("lock"), holdings_.take("state.lock"),
                            holdings_.take("listener.lock")};
  holdings_ = Holdings();
  const container::Directories& directories = options_.directories;
  for (const std::string& path : mount_points())
    if (const auto result = unmount_own(path); !result)
      spdlog::error("{}", result.error().message());
  if (!options_.pid_file.empty()) ::unlink(options_.pid_file.c_str());
  if (!bound) return;
  for (const std::string& path :
       {directories.socket(), intercept::socket_path(directories.runtime)})
    ::unlink(path.c_str());
}

}  // namespace umwelt::fusefs
