// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/file.h"
#include "base/log.h"
#include "fusefs/holdings.h"
#include "fusefs/keeper.h"
#include "fusefs/options.h"
#include "fusefs/process.h"
#include "fusefs/server.h"

namespace umwelt::fusefs {
namespace {

constexpr int kExitFailure = 1;

// The child goes on in the background; the parent waits until it is ready (0) or has said on stderr
// why it can't be. Returns, in the child only, the descriptor to report on.
Result<UniqueFd> detach() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  UniqueFd report(ends[0]), reporter(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child == 0) {
    ::setsid();
    return reporter;
  }
  reporter.reset();
  char ready = 0;
  const ssize_t n = ::read(report.get(), &ready, 1);
  ::_exit(n == 1 ? 0 : kExitFailure);
}

// A container takes some 20 descriptors; the soft limit, 1024 by default, is for select(2).
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0)
    spdlog::warn("setrlimit RLIMIT_NOFILE: {}", std::strerror(errno));
}

Result<void> keep(const Options& options, Holdings inherited) {
  ::prctl(PR_SET_NAME, "umweltd");  // also where a server has started it, as /proc/self/exe
  if (::geteuid() != 0) return fail(0, "only root can serve containers, use sudo");
  ::umask(022);  // the directories that it makes are for all
  UniqueFd reporter;
  if (!options.foreground) reporter = UMWELT_TRY(detach());
  const auto keeper = UMWELT_TRY(Keeper::make(options, std::move(inherited)));
  return keeper->run(run_server, [&]() -> Result<void> {
    if (reporter) {
      UMWELT_CHECK(leave_terminal(options.directories.runtime + "/umweltd.log"));
      if (::write(reporter.get(), "1", 1) != 1) return fail_errno("report");
      reporter.reset();
    }
    for (const std::string& note : options.notes) spdlog::info("lxcfs's {}", note);
    spdlog::info("umweltd {} is ready in {}", UMWELT_VERSION, options.directories.runtime);
    return {};
  });
}

}  // namespace
}  // namespace umwelt::fusefs

int main(int argc, char** argv) {
  using namespace umwelt;
  open_standard_descriptors();
  int code = 0;
  const auto options = fusefs::parse_options(argc, argv, code);
  if (!options) return code;
  setup_log(options->log_level);
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR2})
    ::sigaddset(&signals, signal);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // in every thread
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGUSR1, SIG_IGN);  // upon which lxcfs loads itself again
  fusefs::raise_descriptor_limit();

  auto inherited = fusefs::Holdings::from_environment();
  if (!inherited) {
    fmt::print(stderr, "umweltd: {}\n", inherited.error().message());
    return fusefs::kExitFailure;
  }
  // A keeper started this program to be the next server.
  if (inherited->contains("channel") && !inherited->contains("server"))
    return fusefs::run_server(*options, *std::move(inherited));
  if (const auto result = fusefs::keep(*options, *std::move(inherited)); !result) {
    if (const std::string message = result.error().message(); !message.empty())
      fmt::print(stderr, "umweltd: {}\n", message);
    return fusefs::kExitFailure;
  }
  return 0;
}
