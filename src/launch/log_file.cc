// SPDX-License-Identifier: Apache-2.0
#include "launch/log_file.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <sys/stat.h>
#include <time.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace umwelt::launch {
namespace {

std::string now_text() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:09}Z", fmt::gmtime(now.tv_sec), now.tv_nsec);
}

std::string render_entry(const char* stream, std::string_view text, const std::string& time) {
  const nlohmann::json log = std::string(text);
  return fmt::format("{{\"log\":{},\"stream\":\"{}\",\"time\":\"{}\"}}\n",
                     log.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), stream,
                     time);
}

constexpr std::size_t kMaxBatch = 1U << 20;
constexpr int kFlags = O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW;

}  // namespace

Result<LogFile> LogFile::open(const std::string& path) {
  UniqueFd fd = UMWELT_TRY(open_at(AT_FDCWD, path, kFlags, 0600));
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return fail_errno("stat " + path);
  return LogFile(path, std::move(fd), static_cast<std::size_t>(st.st_size));
}

Result<void> LogFile::append(const char* stream, std::string_view bytes) {
  std::string& pending = pending_[stream];
  pending += bytes;
  const std::string time = now_text();
  std::string entries;
  std::string_view rest = pending;
  for (;;) {
    const std::size_t end = rest.substr(0, kMaxText).find('\n');
    if (end == std::string_view::npos && rest.size() < kMaxText) break;
    const std::string_view text =
        rest.substr(0, end == std::string_view::npos ? kMaxText : end + 1);
    entries += render_entry(stream, text, time);
    if (entries.size() > kMaxBatch) {
      UMWELT_CHECK(write(entries));
      entries.clear();
    }
    rest.remove_prefix(text.size());
  }
  pending.erase(0, pending.size() - rest.size());
  return write(entries);
}

Result<void> LogFile::flush() {
  for (auto& [stream, text] : pending_) {
    if (!text.empty()) UMWELT_CHECK(write(render_entry(stream.c_str(), text, now_text())));
    text.clear();
  }
  return {};
}

Result<void> LogFile::write(std::string_view entries) {
  if (size_ + entries.size() > kMaxBytes) UMWELT_CHECK(rotate());
  size_ += entries.size();
  return write_all(fd_.get(), entries, "write " + path_);
}

Result<void> LogFile::rotate() {
  if (std::rename(path_.c_str(), (path_ + ".1").c_str()) != 0) return fail_errno("rename " + path_);
  fd_ = UMWELT_TRY(open_at(AT_FDCWD, path_, kFlags, 0600));
  size_ = 0;
  return {};
}

}  // namespace umwelt::launch
