// SPDX-License-Identifier: Apache-2.0
#include "fusefs/holdings.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <limits>
#include <string_view>

#include "base/parse.h"

namespace umwelt::fusefs {
namespace {

constexpr int kFirst = 3;                           // SD_LISTEN_FDS_START
constexpr std::size_t kMaxVariableBytes = 100'000;  // below MAX_ARG_STRLEN (execve(2))
constexpr std::string_view kPid = "LISTEN_PID=";

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string names_variable(std::size_t part) {
  return part == 0 ? "LISTEN_FDNAMES" : fmt::format("LISTEN_FDNAMES_{}", part);
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
  const std::string what = "execute " + arguments.front();
  auto successor = Successor::make(*this, std::move(arguments));
  if (!successor) return successor.error();
  return {successor->run(), what};
}

Result<Successor> Successor::make(const Holdings& holdings, std::vector<std::string> arguments) {
  Successor result;
  const int end = kFirst + static_cast<int>(holdings.items().size());
  std::string names;
  for (const auto& [name, fd] : holdings.items()) {
    names += (names.empty() ? "" : ":") + name;
    if (fd.get() < end) result.moved_.push_back(UMWELT_TRY(copy(fd.get(), end)));
    result.descriptors_.push_back(fd.get() < end ? result.moved_.back().get() : fd.get());
  }
  for (char** variable = environ; *variable != nullptr; ++variable)
    result.environment_.emplace_back(*variable);
  result.environment_.push_back(fmt::format("LISTEN_FDS={}", result.descriptors_.size()));
  // One variable does not hold the names of some thousand.
  for (std::size_t part = 0; part == 0 || part * kMaxVariableBytes < names.size(); ++part)
    result.environment_.push_back(names_variable(part) + "=" +
                                  names.substr(part * kMaxVariableBytes, kMaxVariableBytes));
  result.environment_.push_back(std::string(kPid) +
                                std::string(std::numeric_limits<pid_t>::digits10 + 1, '\0'));
  result.arguments_ = std::move(arguments);
  const auto pointers = [](std::vector<std::string>& texts) {
    std::vector<char*> all;
    for (std::string& text : texts) all.push_back(text.data());
    all.push_back(nullptr);
    return all;
  };
  result.argv_ = pointers(result.arguments_);
  result.envp_ = pointers(result.environment_);
  return result;
}

int Successor::run() {
  int place = kFirst;
  for (const int fd : descriptors_)
    if (::dup2(fd, place++) < 0) return errno;
  char* const number = environment_.back().data() + kPid.size();
  std::to_chars(number, environment_.back().data() + environment_.back().size(), ::getpid());
  ::execve(argv_[0], argv_.data(), envp_.data());
  return errno;
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
