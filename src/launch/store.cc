// SPDX-License-Identifier: Apache-2.0
#include "launch/store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <thread>

#include "base/file.h"
#include "control/client.h"
#include "launch/cgroup.h"
#include "launch/namespaces.h"
#include "launch/storage.h"

namespace umwelt::launch {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxStateBytes = 4U << 20;
// Begins the name of a directory that is being made or removed, and of no id.
constexpr std::string_view kTemporary = "~";
constexpr char kState[] = "/state.json", kLastState[] = "/last-state.json";
// Spaces that end a state, where a later one may be longer.
constexpr std::size_t kRoom = 128;

Result<void> remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) return fail(error.value(), "remove " + path);
  return {};
}

Result<void> wait_for_lock(int fd, const std::string& what) {
  while (::flock(fd, LOCK_EX) != 0)
    if (errno != EINTR) return fail_errno("lock " + what);
  return {};
}

std::string text_of(const Launched& launched) {
  return to_json(launched).dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string with_room(const std::string& text) { return text + std::string(kRoom, ' ') + "\n"; }

// Takes no more space than what `path` has. A reader may see some of both: Store::read().
Result<void> write_over(const std::string& path, std::string text) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error) return fail(error.value(), "stat " + path);
  if (text.size() > size) return fail(ENOSPC, "write " + path);
  text.resize(size, ' ');
  return write_file_at(AT_FDCWD, path, text);
}

}  // namespace

Store::Store(container::Directories directories) : directories_(std::move(directories)) {}

std::string Store::directory(const std::string& id) const {
  return directories_.launched() + "/" + id;
}

std::string Store::log_path(const std::string& id) const { return directory(id) + "/log"; }

Result<UniqueFd> Store::lock() const {
  UMWELT_CHECK(make_directories(directories_.runtime, 0700));
  UMWELT_CHECK(make_directories(directories_.launched(), 0700));
  UniqueFd fd = UMWELT_TRY(
      open_at(AT_FDCWD, directories_.launched() + "/.lock", O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  UMWELT_CHECK(wait_for_lock(fd.get(), directories_.launched()));
  return fd;
}

Result<UniqueFd> Store::take_turn(const std::string& id) const {
  UniqueFd fd = UMWELT_TRY(open_at(AT_FDCWD, directory(id), O_RDONLY | O_DIRECTORY));
  UMWELT_CHECK(wait_for_lock(fd.get(), directory(id)));
  return fd;
}

Result<Launched> Store::read(const std::string& id) const {
  const std::string path = directory(id) + kState;
  auto json = nlohmann::json::parse(UMWELT_TRY(read_file(path, kMaxStateBytes)), nullptr, false);
  if (json.is_discarded()) {  // damaged, or written over in this moment
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    json = nlohmann::json::parse(UMWELT_TRY(read_file(path, kMaxStateBytes)), nullptr, false);
  }
  auto launched = launched_from_json(json);
  if (!launched) return fail(launched.error().code, path + ": " + launched.error().text);
  if (launched->spec.id != id) return fail(EINVAL, path + ": it is the state of another container");
  return launched;
}

Result<void> Store::write(const Launched& launched) const {
  const std::string path = directory(launched.spec.id) + kState, text = text_of(launched);
  auto written = replace_file(path, with_room(text), 0600, false);
  // How a container ended is not lost because the output of one, say, has filled the filesystem.
  if (!written && (written.error().code == ENOSPC || written.error().code == EDQUOT))
    return write_over(path, text);
  return written;
}

Result<void> Store::create(const Launched& launched) {
  const Spec& spec = launched.spec;
  if (!container::valid_id(spec.id)) return fail(EINVAL, "container id " + spec.id);
  const UniqueFd held = UMWELT_TRY(lock());
  for (const Launched& other : UMWELT_TRY(all())) {
    if (other.spec.id == spec.id) return fail(EEXIST, "container id " + spec.id);
    if (!spec.name.empty() && (other.spec.name == spec.name || other.spec.id == spec.name))
      return fail(EEXIST, "container name " + spec.name);
  }
  // Complete before it has its name, so that a crash leaves no half container.
  const std::string temporary = directory(std::string(kTemporary) + spec.id);
  if (::mkdir(temporary.c_str(), 0700) != 0) return fail_errno("make " + temporary);
  auto made = replace_file(temporary + kState, with_room(text_of(launched)), 0600, false);
  if (made && std::rename(temporary.c_str(), directory(spec.id).c_str()) != 0)
    made = fail_errno("make " + directory(spec.id));
  if (!made) (void)remove_tree(temporary);
  return made;
}

Result<Launched> Store::update(const std::string& id,
                               const std::function<void(Launched&)>& change) {
  const UniqueFd held = UMWELT_TRY(lock());
  Launched launched = UMWELT_TRY(read(id));
  change(launched);
  UMWELT_CHECK(write(launched));
  return launched;
}

Result<std::vector<Launched>> Store::all() const {
  std::vector<Launched> containers;
  std::error_code error;
  fs::directory_iterator it(directories_.launched(), error);
  if (error == std::errc::no_such_file_or_directory) return containers;
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    const std::string id = it->path().filename().string();
    if (!container::valid_id(id)) continue;
    // One that is removed in this moment, or whose state somebody damaged, hides no other.
    if (auto launched = read(id)) containers.push_back(*std::move(launched));
  }
  if (error) return fail(error.value(), "list " + directories_.launched());
  std::sort(containers.begin(), containers.end(), [](const Launched& a, const Launched& b) {
    return std::tie(a.created_s, a.spec.id) < std::tie(b.created_s, b.spec.id);
  });
  return containers;
}

Result<Launched> Store::find(const std::string& name_or_id) const {
  std::vector<Launched> matches;
  for (Launched& launched : UMWELT_TRY(all())) {
    if (launched.spec.name == name_or_id || launched.spec.id == name_or_id) return launched;
    if (!name_or_id.empty() && launched.spec.id.starts_with(name_or_id))
      matches.push_back(std::move(launched));
  }
  if (matches.size() == 1) return std::move(matches.front());
  if (matches.empty()) return fail(ENOENT, "container " + name_or_id);
  return fail(ENOENT,
              fmt::format("container {}: {} ids begin with it", name_or_id, matches.size()));
}

Result<void> Store::remove(const std::string& id) {
  const UniqueFd held = UMWELT_TRY(lock());
  const Launched launched = UMWELT_TRY(read(id));
  if (launched.status != Status::kStopped) return fail(EBUSY, "container " + id);
  return erase(id);
}

Result<void> Store::forget(const std::string& id) {
  const UniqueFd held = UMWELT_TRY(lock());
  return erase(id);
}

Result<UniqueFd> Store::await(const std::string& id) const {
  UniqueFd file = UMWELT_TRY(
      open_at(AT_FDCWD, directory(id) + kLastState, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  // Space for it, as long as there is some.
  std::error_code error;
  const auto size = fs::file_size(directory(id) + kState, error);
  if (!error)
    (void)::fallocate(file.get(), FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(size + kRoom));
  return file;
}

bool Store::awaited(const std::string& id) const {
  return ::access((directory(id) + kLastState).c_str(), F_OK) == 0;
}

std::optional<Launched> Store::last_state(int file) {
  std::string buffer;
  const auto text = pread_all(file, buffer);
  if (!text) return std::nullopt;
  auto launched = launched_from_json(nlohmann::json::parse(*text, nullptr, false));
  return launched ? std::optional(*std::move(launched)) : std::nullopt;
}

Result<void> Store::erase(const std::string& id) {
  if (awaited(id)) {
    if (const auto state = read_file(directory(id) + kState, kMaxStateBytes))
      (void)write_file_at(AT_FDCWD, directory(id) + kLastState, *state);
  }
  // Out of sight in one step.
  const std::string temporary = directory(std::string(kTemporary) + id);
  if (std::rename(directory(id).c_str(), temporary.c_str()) != 0) {
    if (errno == ENOENT) return {};
    return fail_errno("remove " + directory(id));
  }
  return remove_tree(temporary);
}

Result<void> Store::tidy(Launched launched) {
  const std::string& id = launched.spec.id;
  if (const auto init = open_process(launched.init_pid, launched.init_starttime))
    ::syscall(SYS_pidfd_send_signal, init->get(), SIGKILL, nullptr, 0);
  const bool oom = oom_killed(id).value_or(false);
  UMWELT_CHECK(destroy_cgroup(id));
  remove_left_disk(launched, directories_);
  // No daemon, or one that has noticed already, is as good.
  if (auto client = control::Client::connect(directories_.socket())) (void)client->remove(id);
  const bool started = launched.status != Status::kCreated;
  launched.status = Status::kStopped;
  launched.exit_code = 128 + SIGKILL;
  launched.oom_killed = oom;
  launched.finished_s = ::time(nullptr);
  const bool last = launched.spec.remove || !started;
  if (!last) return write(launched);
  if (awaited(id)) (void)write(launched);
  return erase(id);
}

Result<void> Store::reap() {
  std::error_code error;
  if (!fs::exists(directories_.launched(), error)) return {};
  const auto dead = [](const Launched& launched) {
    return launched.status != Status::kStopped && !monitored(launched);
  };
  bool needed = false;
  for (const auto& entry : fs::directory_iterator(directories_.launched(), error))
    needed |= entry.path().filename().string().starts_with(kTemporary);
  for (const Launched& launched : UMWELT_TRY(all())) needed |= dead(launched);
  if (!needed) return {};

  const UniqueFd held = UMWELT_TRY(lock());
  std::vector<std::string> leftovers;
  for (const auto& entry : fs::directory_iterator(directories_.launched(), error))
    if (entry.path().filename().string().starts_with(kTemporary))
      leftovers.push_back(entry.path().string());
  // One that can't be tidied is in nobody's way but its own.
  Result<void> tidied;
  const auto note = [&](Result<void> done) {
    if (!done && tidied) tidied = std::move(done);
  };
  for (const std::string& path : leftovers) note(remove_tree(path));
  for (Launched& launched : UMWELT_TRY(all()))
    if (dead(launched)) note(tidy(std::move(launched)));
  return tidied;
}

bool monitored(const Launched& launched) {
  return container::process_lives(launched.monitor_pid, launched.monitor_starttime);
}

}  // namespace umwelt::launch
