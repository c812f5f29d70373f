// SPDX-License-Identifier: Apache-2.0
// What the keeper takes hold of at its start: the runtime folder and the mounts.
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "base/file.h"
#include "base/log.h"
#include "base/parse.h"
#include "control/server.h"
#include "fusefs/connection.h"
#include "fusefs/journal.h"
#include "fusefs/keeper.h"
#include "fusefs/mounts.h"

namespace umwelt::fusefs {
namespace {

using namespace std::chrono_literals;
using Clock = ServerProcess::Clock;

constexpr auto kLockPatience = 50ms;

// Held by the keeper and its servers; the file says which process the keeper is.
Result<UniqueFd> lock_file(const std::string& path, const char* hint) {
  UniqueFd lock = UMWELT_TRY(open_at(AT_FDCWD, path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  // A stand-in has it for a moment (intercept/stand_in.h).
  const Clock::time_point deadline = Clock::now() + kLockPatience;
  while (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail_errno("lock " + path);
    if (Clock::now() < deadline) {
      std::this_thread::sleep_for(1ms);
      continue;
    }
    const auto text = read_file(path, 64);
    const std::string pid(text ? trim(*text) : "?");
    return fail(
        0, "already running as process " + (pid.empty() ? "?" : pid) + " (" + path + ")" + hint);
  }
  return lock;
}

Result<void> write_pid(int lock) {
  const std::string pid = fmt::format("{}\n", ::getpid());
  // In this order a file that is there needs no space.
  if (::pwrite(lock, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size()) ||
      ::ftruncate(lock, static_cast<off_t>(pid.size())) != 0)
    return fail_errno("write the lock file");
  return {};
}

Result<void> mount_one(unsigned index, const std::string& path, unsigned threads, Journal& journal,
                       Holdings& holdings) {
  const ConnectionKind& kind = kConnectionKinds[index];
  Channel channel = UMWELT_TRY(mount_channel(path, threads, kind));
  UMWELT_CHECK(journal.set_init_request(index, channel.init_request));
  for (std::size_t i = 0; i < channel.fds.size(); ++i)
    holdings.put(fmt::format("{}.{}", kind.name, i), std::move(channel.fds[i]));
  return {};
}

}  // namespace

// Those that lie upon others first.
std::vector<std::string> Keeper::mount_points() const {
  const container::Directories& directories = options_.directories;
  std::vector<std::string> paths = {directories.shared_proc(), directories.shared_sys()};
  if (!options_.lxcfs.empty()) paths.push_back(options_.lxcfs);
  for (const std::string& path : directories.mounts()) paths.push_back(path);
  return paths;
}

Result<void> Keeper::take_runtime() {
  container::Directories& directories = options_.directories;
  directories.runtime = UMWELT_TRY(real_directory(directories.runtime));
  if (!holdings_.contains("lock"))
    holdings_.put("lock", UMWELT_TRY(lock_file(directories.lock(), "")));
  UMWELT_CHECK(write_pid(holdings_.get("lock")));
  directories.state = UMWELT_TRY(real_directory(directories.state));
  // The shared tree is mounted in it.
  if (!holdings_.contains("state.lock"))
    holdings_.put("state.lock",
                  UMWELT_TRY(lock_file(directories.state + "/state.lock",
                                       ": another runtime folder needs a --state-dir of its own")));
  (void)write_pid(holdings_.get("state.lock"));  // for that message alone; the disk may be full
  if (!options_.lxcfs.empty()) {
    UMWELT_CHECK(take_lxcfs_place(options_.lxcfs));
    options_.lxcfs = UMWELT_TRY(real_directory(options_.lxcfs));
  }
  if (!options_.pid_file.empty())
    UMWELT_CHECK(replace_file(options_.pid_file, fmt::format("{}\n", ::getpid()), 0644));
  return {};
}

// What a service manager kept for us may be of a folder that was configured before, or be gone from
// it: a start mends that.
Result<bool> Keeper::are_mounted() const {
  const auto& mounts = options_.directories.mounts();
  for (unsigned i = 0; i < mounts.size(); ++i) {
    if (!holdings_.contains(std::string(kConnectionKinds[i].name) + ".0")) return false;
    if (!UMWELT_TRY(is_own(mounts[i]))) return false;
  }
  if (!holdings_.contains("journal")) return false;
  const auto journal = Journal::map(holdings_.get("journal"));
  if (!journal) spdlog::warn("{}: mounting again", journal.error().message());
  return journal.has_value();
}

void Keeper::forget(const std::string& prefix) {
  std::vector<std::string> names;
  for (const auto& [name, fd] : holdings_.items())
    if (name.starts_with(prefix)) names.push_back(name);
  for (const std::string& name : names) {
    manager_.drop(name);
    holdings_.drop(name);
  }
}

Result<void> Keeper::make_mounts() {
  if (holdings_.contains("server")) return {};  // it serves all that is in the holdings
  const container::Directories& directories = options_.directories;
  if (holdings_.contains("listener") &&
      !control::Listener::is_at(holdings_.get("listener"), directories.socket()))
    forget("listener");
  if (!holdings_.contains("listener")) {
    auto listener = UMWELT_TRY(control::Listener::bind(directories.socket()));
    holdings_.put("listener", std::move(listener.socket));
    holdings_.put("listener.lock", std::move(listener.lock));
  }
  if (UMWELT_TRY(are_mounted())) return {};
  forget("journal");
  for (const auto& kind : kConnectionKinds) forget(std::string(kind.name) + ".");
  for (const std::string& path : mount_points()) {
    UMWELT_CHECK(unmount_own(path));
    UMWELT_CHECK(make_directories(path));
  }
  UniqueFd fd = UMWELT_TRY(Journal::create());
  const auto journal = UMWELT_TRY(Journal::map(fd.get()));
  holdings_.put("journal", std::move(fd));
  const auto mounts = directories.mounts();
  for (unsigned i = 0; i < mounts.size(); ++i)
    UMWELT_CHECK(mount_one(i, mounts[i], options_.threads, *journal, holdings_));
  return {};
}

}  // namespace umwelt::fusefs
