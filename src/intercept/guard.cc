// SPDX-License-Identifier: Apache-2.0
#include "intercept/guard.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <memory>
#include <string_view>

#include "base/file.h"

namespace umwelt::intercept {
namespace {

constexpr std::string_view kOption = "--seccomp-guard";
constexpr int kListener = 3, kNotice = 4;
constexpr int kFirstCopy = 10;  // above both, so that none is overwritten

Result<UniqueFd> copy_above(int fd) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, kFirstCopy));
  if (!copy) return fail_errno("copy a descriptor");
  return copy;
}

struct Actions {
  Actions() { ::posix_spawn_file_actions_init(&actions); }
  ~Actions() { ::posix_spawn_file_actions_destroy(&actions); }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;
  posix_spawn_file_actions_t actions;
};

struct Attributes {
  Attributes() {
    sigset_t none;
    ::sigemptyset(&none);
    ::posix_spawnattr_init(&attributes);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
  }
  ~Attributes() { ::posix_spawnattr_destroy(&attributes); }
  Attributes(const Attributes&) = delete;
  Attributes& operator=(const Attributes&) = delete;
  posix_spawnattr_t attributes;
};

}  // namespace

Result<void> start_guard(const Fallback::Place& place, int listener, int notice) {
  const UniqueFd first = UMWELT_TRY(copy_above(listener)), second = UMWELT_TRY(copy_above(notice));
  Actions file;
  const Attributes attributes;
  ::posix_spawn_file_actions_adddup2(&file.actions, first.get(), kListener);
  ::posix_spawn_file_actions_adddup2(&file.actions, second.get(), kNotice);
  std::array<std::string, 4> words = {"umweltd", std::string(kOption), place.runtime, place.id};
  std::array<char*, 5> arguments{};
  for (std::size_t i = 0; i < words.size(); ++i) arguments[i] = words[i].data();
  pid_t child = 0;
  const int code = ::posix_spawn(&child, "/proc/self/exe", &file.actions, &attributes.attributes,
                                 arguments.data(), environ);
  if (code != 0) return fail(code, "start a process for the fallback");
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return fail(ECHILD, "start a process for the fallback");
  return {};
}

std::optional<int> run_guard(int argc, char** argv) {
  if (argc != 4 || argv[1] != kOption) return std::nullopt;
  UniqueFd listener(kListener), notice(kNotice);
  for (const int fd : {kListener, kNotice}) ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  auto fallback = Fallback::make({argv[2], argv[3]}, std::move(listener), std::move(notice));
  if (!fallback) return 1;
  // Whoever started this waits for its first process only.
  const pid_t child = ::fork();
  if (child != 0) return child < 0 ? 1 : 0;
  if (const auto null = open_at(AT_FDCWD, "/dev/null", O_RDWR))
    for (const int fd : {0, 1, 2}) ::dup2(null->get(), fd);
  if (::chdir("/") != 0) return 1;
  fallback->run();
  return 0;
}

}  // namespace umwelt::intercept
