// SPDX-License-Identifier: Apache-2.0
#include "cli/log_file.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/parse.h"
#include "cli/output.h"

namespace umwelt::cli {
namespace {

constexpr std::size_t kBlock = 64U << 10;

// "1h30m" in seconds.
std::optional<std::int64_t> parse_duration(std::string_view text) {
  std::int64_t total = 0;
  if (text.empty()) return std::nullopt;
  while (!text.empty()) {
    const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    const auto number = parse_u64(text.substr(0, digits));
    if (!number || *number > 1000000000 || digits == text.size()) return std::nullopt;
    std::int64_t unit = 0;
    switch (text[digits]) {
      case 's':
        unit = 1;
        break;
      case 'm':
        unit = 60;
        break;
      case 'h':
        unit = 3600;
        break;
      case 'd':
        unit = 86400;
        break;
      default:
        return std::nullopt;
    }
    total += static_cast<std::int64_t>(*number) * unit;
    text.remove_prefix(digits + 1);
  }
  return total;
}

}  // namespace

std::optional<LogEntry> parse_log_line(std::string_view line) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  const auto text = [&json](const char* key) -> std::optional<std::string> {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_string()) return std::nullopt;
    return found->get<std::string>();
  };
  auto written = text("log");
  if (!written) return std::nullopt;
  return LogEntry{*std::move(written), text("stream") == "stderr", text("time").value_or("")};
}

std::optional<std::int64_t> parse_utc_time(std::string_view text) {
  const std::string whole(text.substr(0, 40));
  std::tm parts{};
  const char* rest = ::strptime(whole.c_str(), "%Y-%m-%d", &parts);
  if (rest == nullptr) return std::nullopt;
  if (*rest == 'T') {
    rest = ::strptime(rest, "T%H:%M:%S", &parts);
    if (rest == nullptr) return std::nullopt;
    if (*rest == '.') rest += 1 + std::string_view(rest + 1).find_first_not_of("0123456789");
    if (*rest == 'Z') ++rest;
  }
  if (*rest != '\0') return std::nullopt;
  const int day = parts.tm_mday;
  const std::time_t time = ::timegm(&parts);
  // It takes the 30th of February for a day in March.
  return parts.tm_mday == day ? std::optional<std::int64_t>(time) : std::nullopt;
}

Result<std::int64_t> parse_since(std::string_view text, std::int64_t now_s) {
  if (const auto seconds = parse_i64(text); seconds && *seconds >= 0) return *seconds;
  if (const auto duration = parse_duration(text)) return now_s - *duration;
  if (const auto time = parse_utc_time(text)) return *time;
  return fail(0, fmt::format("'{}' is not a time: give an age such as 10m or 1h30m, or a UTC time "
                             "such as 2026-01-02T03:04:05Z",
                             printable(text, 60)));
}

Result<std::uint64_t> LogFile::seek_tail(std::uint64_t lines) {
  buffer_.clear();
  used_ = 0;
  const off_t size = ::lseek(fd_.get(), 0, SEEK_END);
  if (size < 0) return fail_errno("lseek log");
  offset_ = size;
  if (lines == 0 || size == 0) return 0;
  std::string block(kBlock, '\0');
  off_t start = size;
  std::uint64_t found = 1;  // the line that the end of the file closes
  while (start > 0) {
    const off_t length = std::min(start, static_cast<off_t>(kBlock));
    start -= length;
    const ssize_t n = ::pread(fd_.get(), block.data(), static_cast<std::size_t>(length), start);
    if (n != length) return n < 0 ? fail_errno("read log") : fail(EIO, "read log");
    for (off_t i = length; i-- > 0;) {
      if (block[static_cast<std::size_t>(i)] != '\n' || start + i + 1 == size) continue;
      if (found++ < lines) continue;
      offset_ = start + i + 1;
      return lines;
    }
  }
  offset_ = 0;
  return found;
}

Result<std::optional<std::string>> LogFile::next() {
  while (true) {
    const std::size_t end = buffer_.find('\n', used_);
    if (end != std::string::npos) {
      std::string line = buffer_.substr(used_, end - used_);
      used_ = end + 1;
      return std::optional(std::move(line));
    }
    buffer_.erase(0, used_);
    used_ = 0;
    if (buffer_.size() > kMaxFileBytes) return fail(EFBIG, "a line of the log");
    const std::size_t old = buffer_.size();
    buffer_.resize(old + kBlock);
    const ssize_t n = ::pread(fd_.get(), buffer_.data() + old, kBlock, offset_);
    buffer_.resize(old + static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
    if (n < 0) return fail_errno("read log");
    if (n == 0) return std::optional<std::string>();
    offset_ += n;
  }
}

ino_t LogFile::inode() const {
  struct stat status {};
  return ::fstat(fd_.get(), &status) == 0 ? status.st_ino : 0;
}

Result<RotatedLog> RotatedLog::open(const std::string& path) {
  while (true) {
    LogFile current(UMWELT_TRY(open_at(AT_FDCWD, path, O_RDONLY | O_NOFOLLOW)));
    auto older = open_at(AT_FDCWD, path + ".1", O_RDONLY | O_NOFOLLOW);
    std::vector<LogFile> files;
    if (older) files.emplace_back(*std::move(older));
    // It was cut between the two looks.
    if (!files.empty() && files.front().inode() == current.inode()) continue;
    files.push_back(std::move(current));
    return RotatedLog(path, std::move(files));
  }
}

Result<void> RotatedLog::seek_tail(std::uint64_t lines) {
  for (auto file = files_.rbegin(); file != files_.rend(); ++file)
    lines -= UMWELT_TRY(file->seek_tail(lines));
  return {};
}

Result<std::optional<std::string>> RotatedLog::next() {
  while (true) {
    auto line = files_.front().next();
    if (!line || *line) return line;
    if (files_.size() > 1) {
      files_.erase(files_.begin());
      continue;
    }
    struct stat status {};
    if (::stat(path_.c_str(), &status) != 0 || status.st_ino == files_.front().inode()) return line;
    // Cut off meanwhile. What was written last before the cut comes first.
    line = files_.front().next();
    if (!line || *line) return line;
    auto fd = open_at(AT_FDCWD, path_, O_RDONLY | O_NOFOLLOW);
    if (!fd) return std::optional<std::string>();
    files_.front() = LogFile(*std::move(fd));
  }
}

}  // namespace umwelt::cli
