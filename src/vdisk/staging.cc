// SPDX-License-Identifier: Apache-2.0
#include "vdisk/staging.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>

#include "base/file.h"
#include "vdisk/tree_writer.h"

namespace umwelt::vdisk {
namespace {

constexpr int kTries = 500;  // while those who were killed as well still write to it
constexpr useconds_t kPauseUs = 10'000;

// Until `link` is closed. It has nothing open but what it needs: neither somebody's pipe nor a
// lock.
[[noreturn]] void remove_at_end(int parent, const std::string& name, int staging, int link) {
  ::setsid();
  sigset_t all;
  ::sigfillset(&all);
  ::sigprocmask(SIG_BLOCK, &all, nullptr);
  if (::dup2(parent, 0) < 0 || ::dup2(link, 1) < 0 || ::dup2(staging, 2) < 0) ::_exit(1);
  ::close_range(3, ~0U, 0);
  char byte;
  while (::read(1, &byte, 1) < 0 && errno == EINTR) {
  }
  for (int i = 0; i < kTries; ++i) {
    if (const auto removed = remove_below(0, name); removed || removed.error().code != ENOTEMPTY)
      break;
    ::usleep(kPauseUs);
  }
  ::_exit(0);
}

}  // namespace

Result<Staging> Staging::make(int directory, const std::string& path) {
  std::string name = path + "/" + std::string(kStaging) + "XXXXXX";
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  const UniqueFd reading(ends[0]);
  Staging staging;
  staging.link_ = UniqueFd(ends[1]);
  if (::mkdtemp(name.data()) == nullptr) return fail_errno("mkdtemp " + path);
  staging.path_ = name;
  name.erase(0, path.size() + 1);
  staging.fd_ = UMWELT_TRY(open_at(directory, name, O_RDONLY | O_DIRECTORY));
  if (::flock(staging.fd_.get(), LOCK_EX) != 0) return fail_errno("lock " + name);
  auto remover = UMWELT_TRY(clone_child(0));
  if (!remover) remove_at_end(directory, name, staging.fd_.get(), reading.get());
  staging.remover_ = *std::move(remover);
  return staging;
}

Staging::~Staging() {
  if (!remover_.pidfd) return;
  link_.reset();
  (void)wait_exit_code(remover_.pidfd.get());
}

}  // namespace umwelt::vdisk
