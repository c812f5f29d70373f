// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/child_process.h"
#include "base/file.h"
#include "control/client.h"
#include "intercept/room.h"
#include "launch/calls.h"
#include "launch/cgroup.h"
#include "launch/child.h"
#include "launch/launch.h"
#include "launch/log_file.h"
#include "launch/mounts.h"
#include "launch/namespaces.h"
#include "launch/self.h"
#include "launch/settings.h"
#include "launch/storage.h"
#include "launch/store.h"
#include "launch/supervise.h"

namespace umwelt::launch {
namespace {

constexpr std::uint64_t kNamespaces = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC;

Result<std::pair<UniqueFd, UniqueFd>> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  return std::pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

std::string bytes_text(std::uint64_t bytes) {
  if (bytes % (1U << 20) == 0) return fmt::format("{} MiB", bytes >> 20);
  if (bytes % (1U << 10) == 0) return fmt::format("{} KiB", bytes >> 10);
  return fmt::format("{} bytes", bytes);
}

std::string oom_note(const ResourceLimits& limits) {
  if (!limits.memory_bytes) return "killed: out of memory";
  return fmt::format("killed: out of memory (limit {}); raise --memory",
                     bytes_text(*limits.memory_bytes));
}

// One container from its creation to its end, in the process that waits for it.
class Run {
 public:
  // `daemon` is to know of the container.
  Run(const Spec& spec, const container::Directories& directories, int signals,
      std::optional<control::Client> daemon)
      : spec_(spec),
        directories_(directories),
        store_(directories),
        signals_(signals),
        daemon_(std::move(daemon)) {}

  // `started` is called when the command has been exec'ed.
  Result<Outcome> operator()(const std::function<void()>& started) {
    Launched launched;
    launched.spec = spec_;
    launched.monitor_pid = ::getpid();
    launched.monitor_starttime = UMWELT_TRY(container::read_starttime(launched.monitor_pid));
    launched.created_s = ::time(nullptr);
    UMWELT_CHECK(store_.create(launched));

    auto outcome = start(started);
    if (!outcome || !started_) undo();
    return outcome;
  }

 private:
  Result<Outcome> start(const std::function<void()>& started) {
    record_.id = spec_.id;
    record_.name = spec_.name;
    record_.hostname = spec_.hostname;
    record_.policy = spec_.policy;
    // What the machine's uptime is shown to gets process ages by the machine's clock, too.
    record_.time_namespace = spec_.policy.uptime != view::UptimePolicy::kHost;
    storage_ = UMWELT_TRY(Storage::open(spec_, directories_));
    storage_->describe(record_);
    record_.cgroup_paths = UMWELT_TRY(cgroup_paths(spec_.id));

    std::optional<LogFile> log;
    Output child_output;
    if (spec_.detach) {
      log = UMWELT_TRY(LogFile::open(store_.log_path(spec_.id)));
      supervised_.log = &*log;
      if (!spec_.tty) UMWELT_CHECK(make_output_pipes(child_output));
    }
    if (auto failed = UMWELT_TRY(make_child(std::move(child_output)))) {
      if (failed->stage == Stage::kExec) return not_executed(failed->error);
      return fail(std::move(failed->error));
    }
    started_ = true;
    if (fallback_) supervised_.fallback = &*fallback_;
    UMWELT_CHECK(store_.update(spec_.id, [](Launched& launched) {
      launched.status = Status::kRunning;
      launched.started_s = ::time(nullptr);
    }));
    started();
    supervised_.relay_stdin = spec_.tty && spec_.interactive && !spec_.detach;
    Result<Outcome> outcome = fail(ECHILD, "wait for the container");
    supervised_.ended = [&](int exit_code) { outcome = finish(exit_code); };
    UMWELT_TRY(supervise(std::move(supervised_), signals_));
    return outcome;
  }

  Result<void> make_output_pipes(Output& child_output) {
    std::tie(supervised_.out, child_output.out) = UMWELT_TRY(make_pipe());
    std::tie(supervised_.err, child_output.err) = UMWELT_TRY(make_pipe());
    return {};
  }

  // From birth to exec; what the child reported if it gave up.
  Result<std::optional<ChildError>> make_child(Output child_output) {
    auto [channel, child_channel] = UMWELT_TRY(Channel::make());
    const StartTime start =
        record_.time_namespace ? UMWELT_TRY(start_time_namespace()) : start_now();
    record_.start_boottime_ns = start.boottime_ns;
    record_.start_realtime_s = start.realtime_s;
    const std::uint64_t network = spec_.network == Network::kNone ? CLONE_NEWNET : 0;
    const CgroupDirectories cgroups = UMWELT_TRY(cgroup_directories(spec_.id));
    const UniqueFd birthplace = UMWELT_TRY(create_v2_cgroup(spec_.id));
    auto child = UMWELT_TRY(clone_child(kNamespaces | network, birthplace.get()));
    if (!child) {
      channel.close();
      daemon_.reset();
      run_container(spec_, directories_, cgroups, store_.directory(spec_.id), *storage_,
                    std::move(child_channel), std::move(child_output));
    }
    child_channel.close();
    child_output = {};
    child_ = std::move(*child);
    supervised_.pid = child_.pid;
    supervised_.container = spec_.id;
    supervised_.pidfd = child_.pidfd.get();

    // The child may have given up at any step; what it says of the reason counts most.
    const auto admitted = admit(channel);
    if (!admitted) kill_child();
    auto failed = UMWELT_TRY(hear(channel));
    if (!admitted && !failed) return fail(admitted.error());
    return failed;
  }

  // The child mounts its filesystems meanwhile.
  Result<void> admit(Channel& channel) {
    UMWELT_CHECK(create_v1_cgroups(spec_.id, spec_.limits));
    UMWELT_CHECK(storage_->apply_limits(record_.cgroup_paths));
    record_.init_pid = child_.pid;
    if (daemon_) UMWELT_TRY(daemon_->add(record_));
    daemon_.reset();
    (void)channel.signal();
    const std::uint64_t starttime = UMWELT_TRY(container::read_starttime(child_.pid));
    UMWELT_CHECK(store_.update(spec_.id, [&](Launched& launched) {
      launched.init_pid = child_.pid;
      launched.init_starttime = starttime;
    }));
    return {};
  }

  Result<std::optional<ChildError>> hear(Channel& channel) {
    for (;;) {
      auto message = UMWELT_TRY(channel.receive());
      if (message.error) return std::move(message.error);
      if (message.closed) return std::optional<ChildError>();
      if (message.terminal) supervised_.master = std::move(message.terminal);
      if (message.listener)
        fallback_ = UMWELT_TRY(give_listener(directories_, spec_.id, std::move(message.listener)));
    }
  }

  void kill_child() { ::syscall(SYS_pidfd_send_signal, child_.pidfd.get(), SIGKILL, nullptr, 0); }

  Result<Outcome> finish(int exit_code) {
    Outcome outcome;
    outcome.exit_code = exit_code;
    outcome.oom_killed = oom_killed(spec_.id).value_or(false);
    UMWELT_CHECK(tidy());
    if (spec_.remove && !outcome.oom_killed && !store_.awaited(spec_.id)) {
      UMWELT_CHECK(store_.forget(spec_.id));
      return outcome;
    }
    const auto stopped = store_.update(spec_.id, [&](Launched& launched) {
      launched.status = Status::kStopped;
      launched.exit_code = exit_code;
      launched.oom_killed = outcome.oom_killed;
      launched.finished_s = ::time(nullptr);
    });
    if (outcome.oom_killed) outcome.note = oom_note(stopped ? stopped->spec.limits : spec_.limits);
    if (spec_.remove) UMWELT_CHECK(store_.forget(spec_.id));
    return outcome;
  }

  Result<void> tidy() {
    auto daemon = control::Client::connect(directories_.socket());
    // It may have noticed by itself.
    if (daemon) (void)daemon->send({{"op", "unregister"}, {"id", spec_.id}});
    UMWELT_CHECK(destroy_cgroup(spec_.id));
    if (storage_) storage_->finish(started_);
    if (daemon) (void)daemon->receive();
    return {};
  }

  void undo() {
    if (child_.pid != 0 && !started_) {
      kill_child();
      (void)wait_exit_code(child_.pidfd.get());
    }
    // What fails here is for the next reap().
    if (tidy()) (void)store_.forget(spec_.id);
    if (storage_) storage_->finish(started_);
  }

  const Spec& spec_;
  const container::Directories& directories_;
  Store store_;
  int signals_;
  std::optional<control::Client> daemon_;
  std::optional<Storage> storage_;
  container::Record record_;
  ChildProcess child_;
  Supervised supervised_;
  std::optional<intercept::Fallback> fallback_;
  bool started_ = false;
};

// stdio must not keep the caller's terminal or pipes.
Result<void> become_daemon() {
  if (::setsid() < 0) return fail_errno("make a session");
  const UniqueFd null = UMWELT_TRY(open_at(AT_FDCWD, "/dev/null", O_RDWR));
  for (int fd : {0, 1, 2})
    if (::dup2(null.get(), fd) < 0) return fail_errno("redirect a stream");
  if (::chdir("/") != 0) return fail_errno("chdir /");
  return close_inherited();
}

using Daemon = std::optional<control::Client>;

[[noreturn]] void run_monitor(const Spec& spec, const container::Directories& directories,
                              Daemon daemon, Channel channel) {
  auto ready = become_daemon();
  auto signals = ready ? block_signals() : Result<UniqueFd>(fail(ready.error()));
  if (!signals) {
    channel.send_error({Stage::kLauncher, signals.error()});
    ::_exit(kExitLauncher);
  }
  bool started = false;
  const auto outcome = Run(spec, directories, signals->get(), std::move(daemon))([&] {
    started = true;
    (void)channel.signal();
    channel.close();
  });
  if (!started) {
    if (!outcome)
      channel.send_error({Stage::kLauncher, outcome.error()});
    else
      channel.send_error({Stage::kExec, Error{outcome->exit_code, outcome->note}});
  }
  ::_exit(0);
}

Result<Outcome> run_detached(const Spec& spec, const container::Directories& directories,
                             Daemon daemon) {
  auto [channel, monitor_channel] = UMWELT_TRY(Channel::make());
  const pid_t monitor = ::fork();
  if (monitor < 0) return fail_errno("make the monitor process");
  if (monitor == 0) {
    channel.close();
    run_monitor(spec, directories, std::move(daemon), std::move(monitor_channel));
  }
  monitor_channel.close();
  auto message = UMWELT_TRY(channel.receive());
  Outcome outcome;
  if (message.signalled) return outcome;
  if (!message.error) return fail(0, "the container's monitor process died");
  if (message.error->stage == Stage::kLauncher) return fail(std::move(message.error->error));
  outcome.exit_code = message.error->error.code;
  outcome.note = message.error->error.text;
  return outcome;
}

// Here, where a warning still reaches the user, and before there is a time namespace, in which no
// daemon must be born. Nothing for a container without views.
Result<Daemon> reach_daemon(Spec& spec, const container::Directories& directories,
                            const std::function<void(const std::string&)>& warn) {
  auto client = control::connect_or_start(directories);
  if (client && spec.views == Views::kNone) return Daemon();
  if (client)
    for (const std::string& path : directories.mounts())
      if (!is_mount_point(path))
        client = fail(0, path + " is not mounted: restart umweltd (umwelt doctor says how)");
  if (client) return *std::move(client);
  if (spec.views == Views::kRequired) return fail(client.error());
  spec.views = Views::kNone;
  spec.policy.affinity_virtualised = false;
  warn(fmt::format("{}; the container sees the machine's files", client.error().message()));
  return Daemon();
}

// Here, too: where the filter is installed the container is made already.
Result<void> check_listener(Spec& spec, const std::function<void(const std::string&)>& warn) {
  if (!spec.policy.affinity_virtualised) return {};
  const auto room = intercept::check_room_for_listener();
  if (room) return {};
  const std::string reason = room.error().message();
  if (spec.views == Views::kRequired) return fail(0, reason + " (--intercept off does without it)");
  spec.policy.affinity_virtualised = false;
  warn(reason + "; the container starts as with --intercept off");
  return {};
}

}  // namespace

Outcome not_executed(const Error& error) {
  Outcome outcome;
  outcome.exit_code =
      error.code == ENOENT || error.code == ENOTDIR ? kExitNotFound : kExitNotExecutable;
  outcome.note = error.message();
  return outcome;
}

Result<Outcome> run(const Spec& asked, const container::Directories& directories,
                    const std::function<void(const std::string&)>& warn) {
  if (::geteuid() != 0) return fail(0, "run: only root can make a container, use sudo");
  UMWELT_CHECK(check_limits(asked.limits));
  UMWELT_CHECK(check_protection());
  Spec spec = asked;
  Daemon daemon = UMWELT_TRY(reach_daemon(spec, directories, warn));
  UMWELT_CHECK(check_listener(spec, warn));
  if (const auto reaped = Store(directories).reap(); !reaped) warn(reaped.error().message());
  if (spec.detach) return run_detached(spec, directories, std::move(daemon));
  const UniqueFd signals = UMWELT_TRY(block_signals());
  return Run(spec, directories, signals.get(), std::move(daemon))([] {});
}

}  // namespace umwelt::launch
