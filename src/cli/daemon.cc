// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "base/child_process.h"
#include "base/file.h"
#include "base/parse.h"
#include "cli/containers.h"
#include "cli/options.h"
#include "launch/attach_status.h"

namespace umwelt::cli {
namespace {

constexpr int kStopPatienceMs = 10000;
constexpr std::chrono::seconds kUpgradePatience{60};

// {"pid":...,"version":...}; null when no daemon runs.
Result<nlohmann::json> ping(const container::Directories& directories) {
  auto client = UMWELT_TRY(connect_daemon(directories));
  if (!client) return nlohmann::json();
  nlohmann::json reply = UMWELT_TRY(client->call({{"op", "ping"}}));
  return nlohmann::json{{"pid", reply.value("pid", 0)},
                        {"server", reply.value("server", 0)},
                        {"version", reply.value("version", "?")}};
}

std::string nobody_listens(const Context& context) {
  return fmt::format("no umweltd listens on {}; umwelt daemon start starts one",
                     context.directories.socket());
}

Result<int> status(const Context& context, bool json) {
  const nlohmann::json daemon = UMWELT_TRY(ping(context.directories));
  const bool running = !daemon.is_null();
  if (json) {
    nlohmann::json out = {{"running", running}, {"socket", context.directories.socket()}};
    if (running) out.update(daemon);
    UMWELT_CHECK(print_json(out));
  } else if (running) {
    UMWELT_CHECK(print(fmt::format("umweltd {} runs as process {} and listens on {}\n",
                                   daemon["version"].get<std::string>(), daemon["pid"].get<int>(),
                                   context.directories.socket())));
  } else {
    UMWELT_CHECK(print(nobody_listens(context) + "\n"));
  }
  return running ? 0 : kExitFailure;
}

Result<int> start(const Context& context) {
  auto client = [&] {
    const Progress progress("waiting for umweltd to answer");
    return control::connect_or_start(context.directories);
  }();
  if (!client) return fail(client.error());
  return status(context, false);
}

// Of the daemon, also of one that does not answer.
Result<pid_t> running_daemon(const container::Directories& directories) {
  const UniqueFd lock = UMWELT_TRY(open_at(AT_FDCWD, directories.lock(), O_RDONLY | O_NOFOLLOW));
  if (::flock(lock.get(), LOCK_SH | LOCK_NB) == 0) return fail(ESRCH, "find umweltd");
  const auto pid = parse_u64(trim(UMWELT_TRY(read_file(directories.lock(), 64))));
  if (!pid) return fail(EINVAL, directories.lock());
  return static_cast<pid_t>(*pid);
}

// What is stopped ends too.
Result<void> end(pid_t pid) {
  const std::string groups = read_file(fmt::format("/proc/{}/cgroup", pid)).value_or("");
  if (groups.find("/umweltd.service\n") != groups.npos)
    return fail(0, "systemd would start umweltd again: systemctl stop umweltd");
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) return fail_errno(fmt::format("pidfd_open of umweltd (process {})", pid));
  for (const int signal : {SIGCONT, SIGTERM})
    if (::syscall(SYS_pidfd_send_signal, process.get(), signal, nullptr, 0) < 0)
      return fail_errno(fmt::format("sending a signal to umweltd (process {})", pid));
  const Progress progress("waiting for umweltd to end");
  pollfd poll_fd{process.get(), POLLIN, 0};
  if (::poll(&poll_fd, 1, kStopPatienceMs) != 1)
    return fail(ETIMEDOUT, fmt::format("waiting for umweltd (process {}) to end", pid));
  return {};
}

Result<int> stop(const Context& context, bool force) {
  const auto answer = ping(context.directories);
  if (!answer && !force && answer.error().code == ETIMEDOUT)
    return fail(0, answer.error().text + ": --force ends it nevertheless");
  if (!answer && !force) return fail(answer.error());
  if (!answer) {
    const pid_t pid = UMWELT_TRY(running_daemon(context.directories));
    UMWELT_CHECK(end(pid));
    return 0;
  }
  const nlohmann::json& daemon = *answer;
  if (daemon.is_null()) return fail(0, nobody_listens(context));
  const launch::Store store = UMWELT_TRY(open_store(context.directories));
  std::size_t running = 0;
  std::set<std::string> ours;
  for (const launch::Launched& launched : UMWELT_TRY(store.all())) {
    ours.insert(launched.spec.id);
    running += is_running(launched);
  }
  // Those of other runtimes; one without an init has no files mounted.
  auto client = UMWELT_TRY(control::Client::connect(context.directories.socket()));
  for (const container::Record& record : UMWELT_TRY(client.list()))
    running += record.init_pid > 0 && !ours.contains(record.id);
  if (running > 0 && !force)
    return fail(0,
                fmt::format("{} running container{} would see no /proc/meminfo any more: stop {} "
                            "first, or use --force",
                            running, running == 1 ? "" : "s", running == 1 ? "it" : "them"));

  UMWELT_CHECK(end(daemon["pid"].get<pid_t>()));
  return 0;
}

// Until another server than before answers.
Result<int> upgrade(const Context& context, const std::string& program) {
  const std::string socket = context.directories.socket();
  const nlohmann::json before = UMWELT_TRY(ping(context.directories));
  if (before.is_null()) return fail(0, nobody_listens(context));
  const std::string path = program.empty() ? "" : std::filesystem::absolute(program).string();
  const Progress progress("waiting for the new umweltd to serve");
  const auto deadline = std::chrono::steady_clock::now() + kUpgradePatience;
  auto client = UMWELT_TRY(control::Client::connect(socket, kUpgradePatience));
  const auto asked = client.call_once({{"op", "upgrade"}, {"program", path}});
  // ECONNRESET: the old one was gone before it could say so.
  if (!asked && asked.error().code != ECONNRESET) return fail(asked.error());
  while (std::chrono::steady_clock::now() < deadline) {
    const auto now = ping(context.directories);
    if (now && !now->is_null() && (*now)["server"] != before["server"]) {
      UMWELT_CHECK(
          print(fmt::format("umweltd {} took over from {}\n", (*now)["version"].get<std::string>(),
                            before["version"].get<std::string>())));
      return 0;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return fail(ETIMEDOUT, "waiting for the new umweltd to serve");
}

// Into every container that the daemon knows, where they are not or are dead.
Result<int> reattach(const Context& context) {
  auto client = UMWELT_TRY(control::connect_or_start(context.directories));
  bool failed = false;
  for (const container::Record& record : UMWELT_TRY(client.list())) {
    if (record.init_pid == 0) continue;
    const auto line = run_apart([&]() -> Result<std::string> {
      const auto attached = UMWELT_TRY(launch::attach_again(record, context.directories));
      return fmt::format("{}: {} mounted, {} were there\n", record.id, attached.mounted,
                         attached.present);
    });
    if (!line) {
      print_error({0, fmt::format("container {}: {}", record.id, line.error().message())});
      failed = true;
      continue;
    }
    UMWELT_CHECK(print(*line));
  }
  return failed ? kExitFailure : 0;
}

}  // namespace

void add_daemon(CLI::App& app, Context& context) {
  CLI::App* daemon = add_group(app, "daemon", "Look after umweltd, which serves the views");

  auto json = std::make_shared<bool>(false);
  CLI::App* command =
      add_command(*daemon, context,
                  {.name = "status",
                   .summary = "Say whether umweltd runs; exit code 1 when it does not",
                   .examples = "umwelt daemon status\n",
                   .action = [&context, json](const Operands&) { return status(context, *json); }});
  add_flag(*command, "--json", *json, "print JSON");

  add_command(*daemon, context,
              {.name = "start",
               .summary = "Start umweltd in the background, unless it runs",
               .examples = "umwelt daemon start\n",
               .action = [&context](const Operands&) { return start(context); }});

  auto force = std::make_shared<bool>(false);
  command =
      add_command(*daemon, context,
                  {.name = "stop",
                   .summary = "Stop umweltd",
                   .examples = "umwelt daemon stop\n",
                   .action = [&context, force](const Operands&) { return stop(context, *force); }});
  add_flag(*command, "-f,--force", *force, "also while containers run");

  add_command(*daemon, context,
              {.name = "reattach",
               .summary = "Mount the views again in running containers that lost them",
               .examples = "umwelt daemon reattach\n",
               .action = [&context](const Operands&) { return reattach(context); }});

  add_command(*daemon, context,
              {.name = "upgrade",
               .summary = "Replace the running umweltd by another program; no read fails",
               .operands = "[PROGRAM]",
               .examples = "umwelt daemon upgrade\n"
                           "umwelt daemon upgrade ./build/bin/umweltd\n",
               .max_operands = 1,
               .action = [&context](const Operands& operands) {
                 return upgrade(context, operands.empty() ? "" : operands[0]);
               }});
}

}  // namespace umwelt::cli
