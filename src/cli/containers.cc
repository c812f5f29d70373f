// SPDX-License-Identifier: Apache-2.0
#include "cli/containers.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "cli/command_line.h"

namespace umwelt::cli {
namespace {

using Clock = std::chrono::steady_clock;

// Only a daemon that runs knows.
bool is_registered(const container::Directories& directories, const std::string& name) {
  auto client = connect_daemon(directories);
  if (!client || !*client) return false;
  const auto records = (*client)->list();
  return records && find_registered(*records, name) != nullptr;
}

std::string no_such_container(const launch::Store& store, const std::string& name) {
  if (is_registered(store.directories(), name))
    return fmt::format("container {} was not started by umwelt: use its own runtime", name);
  std::vector<std::string> names;
  if (const auto all = store.all())
    for (const launch::Launched& launched : *all) names.push_back(launched.spec.name);
  const std::string meant = nearest(name, names);
  const std::string text = fmt::format("no such container: {}", printable(name, 80));
  return meant.empty() ? text + "; umwelt ps --all lists them"
                       : fmt::format("{}; did you mean {}?", text, meant);
}

}  // namespace

Result<launch::Store> open_store(const container::Directories& directories) {
  launch::Store store(directories);
  const auto reaped = store.reap();
  // Who may look but not tidy, and whoever asks for another container, still gets an answer.
  if (!reaped && ::geteuid() == 0) print_note(reaped.error().message());
  return store;
}

const container::Record* find_registered(const std::vector<container::Record>& records,
                                         const std::string& name) {
  const container::Record *named = nullptr, *begun = nullptr;
  bool several = false;
  for (const container::Record& record : records) {
    if (record.id == name) return &record;
    if (record.name == name) named = &record;
    if (name.empty() || !record.id.starts_with(name)) continue;
    several = begun != nullptr;
    begun = &record;
  }
  if (named != nullptr) return named;
  return several ? nullptr : begun;
}

Result<launch::Launched> find_container(const launch::Store& store, const std::string& name) {
  auto found = store.find(name);
  if (!found && found.error().code == ENOENT) return fail(0, no_such_container(store, name));
  return found;
}

Result<launch::Launched> find_running(const launch::Store& store, const std::string& name) {
  auto found = UMWELT_TRY(find_container(store, name));
  if (!is_running(found))
    return fail(0, fmt::format("container {} is not running; umwelt ps --all shows how it ended",
                               found.spec.name));
  return found;
}

bool is_running(const launch::Launched& launched) {
  return launched.status == launch::Status::kRunning && launched.init_pid > 0;
}

Result<int> for_each_name(const Operands& names,
                          const std::function<Result<void>(const std::string& name)>& act) {
  int exit_code = 0;
  for (const std::string& name : names) {
    const auto done = act(name);
    if (done) continue;
    print_error(done.error());
    exit_code = kExitFailure;
  }
  return exit_code;
}

Result<UniqueFd> open_init(const launch::Launched& launched) {
  const auto fd = static_cast<int>(::syscall(SYS_pidfd_open, launched.init_pid, 0));
  if (fd < 0) return fail_errno(fmt::format("pidfd_open of process {}", launched.init_pid));
  UniqueFd init(fd);
  const auto starttime = container::read_starttime(launched.init_pid);
  if (!starttime || *starttime != launched.init_starttime)
    return fail(ESRCH, fmt::format("init of container {}", launched.spec.name));
  return init;
}

Result<std::optional<launch::Launched>> wait_until_stopped(launch::Store& store,
                                                           const launch::Launched& launched,
                                                           int patience_ms) {
  const auto deadline = Clock::now() + std::chrono::milliseconds(patience_ms);
  const auto left_ms = [&]() -> int {
    if (patience_ms < 0) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    return static_cast<int>(std::max<std::int64_t>(left.count(), 0));
  };
  const auto late = [&] {
    return fail(ETIMEDOUT, fmt::format("waiting for container {}", launched.spec.name));
  };
  // Before the end, so that its last state is there also when it is removed then.
  const auto awaited = store.await(launched.spec.id);
  if (launched.init_pid > 0) {
    if (const auto init = open_init(launched)) {
      pollfd poll_fd{init->get(), POLLIN, 0};
      while (::poll(&poll_fd, 1, left_ms()) < 0 && errno == EINTR) {
      }
      if ((poll_fd.revents & POLLIN) == 0) return late();
    }
  }
  // Its monitor writes the end down a moment later; reap() does when there is no monitor any more.
  while (true) {
    auto now = store.find(launched.spec.id);
    if (!now && now.error().code == ENOENT)
      return awaited ? launch::Store::last_state(awaited->get()) : std::nullopt;
    if (!now) return fail(now.error());
    if (now->status == launch::Status::kStopped) return std::optional(*std::move(now));
    if (patience_ms >= 0 && left_ms() == 0) return late();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    if (const auto reaped = store.reap(); !reaped && !launch::monitored(*now))
      return fail(reaped.error());
  }
}

Result<std::optional<control::Client>> connect_daemon(const container::Directories& directories) {
  auto client = control::Client::connect(directories.socket());
  if (client) return std::optional(*std::move(client));
  if (client.error().code == ENOENT || client.error().code == ECONNREFUSED)
    return std::optional<control::Client>();
  return fail(client.error());
}

std::string cpus_text(double cpus) {
  std::string text = fmt::format("{:.2f}", cpus);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

}  // namespace umwelt::cli
