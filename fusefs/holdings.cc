// SPDX-License-Identifier: Apache-2.0
#include "fusefs/holdings.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>

#include "base/parse.h"

namespace umwelt::fusefs {
namespace {

constexpr int kFirst = 3;                           // SD_LISTEN_FDS_START
constexpr std::size_t kMaxVariableBytes = 100'000;  // below MAX_ARG_STRLEN (execve(2))

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string names_variable(std::size_t part) {
  return part == 0 ? "LISTEN_FDNAMES" : fmt::format("LISTEN_FDNAMES_{}", part);
}

// One variable does not hold the names of some thousand.
void set_names(const std::string& names) {
  for (std::size_t part = 0; part == 0 || part * kMaxVariableBytes < names.size(); ++part)
    ::setenv(names_variable(part).c_str(),
             names.substr(part * kMaxVariableBytes, kMaxVariableBytes).c_str(), 1);
}

std::string take_names() {
  std::string names;
  for (std::size_t part = 0; std::getenv(names_variable(part).c_str()) != nullptr; ++part) {
    names += environment(names_variable(part).c_str());
    ::unsetenv(names_variable(part).c_str());
  }
  return names;
}

Result<UniqueFd> copy(int fd, int lowest) {
  UniqueFd result(::fcntl(fd, F_DUPFD_CLOEXEC, lowest));
  if (!result) return fail_errno("copy a descriptor");
  return result;
}

}  // namespace

Result<Holdings> Holdings::from_environment() {
  const std::string pid = environment("LISTEN_PID"), count = environment("LISTEN_FDS");
  const std::string names = take_names();
  for (const char* name : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_PIDFDID"}) ::unsetenv(name);
  Holdings holdings;
  if (count.empty() || pid != std::to_string(::getpid())) return holdings;

  const auto number = parse_u64(count);
  std::string_view rest = names;
  for (unsigned i = 0; number && i < *number; ++i) {
    const std::string name(next_part(rest, ':'));
    UniqueFd fd(kFirst + static_cast<int>(i));
    if (::fcntl(fd.get(), F_SETFD, FD_CLOEXEC) != 0) {
      fd.release();
      return fail(EPROTO, "descriptors from $LISTEN_FDS");
    }
    if (name.empty()) return fail(EPROTO, "$LISTEN_FDNAMES");
    // One that a service manager got twice: either will do.
    holdings.descriptors_.try_emplace(name, std::move(fd));
  }
  return holdings;
}

Result<Holdings> Holdings::duplicate() const {
  Holdings copies;
  for (const auto& [name, fd] : descriptors_) copies.put(name, UMWELT_TRY(copy(fd.get(), kFirst)));
  return copies;
}

Error Holdings::exec(std::vector<std::string> arguments) && {
  // First out of the way of each other, then to their places.
  const int count = static_cast<int>(descriptors_.size());
  std::string names;
  for (auto& [name, fd] : descriptors_) {
    auto moved = copy(fd.get(), kFirst + count);
    if (!moved) return moved.error();
    fd = *std::move(moved);
    names += (names.empty() ? "" : ":") + name;
  }
  int place = kFirst;
  for (const auto& [name, fd] : descriptors_) {
    if (::dup2(fd.get(), place++) < 0) return {errno, "place a descriptor"};
  }
  ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
  ::setenv("LISTEN_FDS", std::to_string(count).c_str(), 1);
  set_names(names);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  ::execv(argv[0], argv.data());
  const Error error{errno, "execute " + arguments[0]};
  for (const char* name : {"LISTEN_PID", "LISTEN_FDS"}) ::unsetenv(name);
  (void)take_names();
  return error;
}

int Holdings::get(const std::string& name) const {
  const auto item = descriptors_.find(name);
  return item == descriptors_.end() ? -1 : item->second.get();
}

std::vector<int> Holdings::all(const std::string& name) const {
  std::vector<int> result;
  for (int fd; (fd = get(fmt::format("{}.{}", name, result.size()))) >= 0;) result.push_back(fd);
  return result;
}

UniqueFd Holdings::take(const std::string& name) {
  const auto item = descriptors_.find(name);
  if (item == descriptors_.end()) return {};
  UniqueFd fd = std::move(item->second);
  descriptors_.erase(item);
  return fd;
}

}  // namespace umwelt::fusefs
