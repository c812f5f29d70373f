// SPDX-License-Identifier: Apache-2.0
// Reading the log of a detached container (its format: launch/log_file.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::cli {

struct LogEntry {
  std::string text;  // usually with its line end
  bool error_stream = false;
  std::string time;  // as written
};
// nullopt for a line that is none (a torn one after a crash).
std::optional<LogEntry> parse_log_line(std::string_view line);

// "10m", "1h30m", "90s" before `now_s`, a date "2026-01-02", "2026-01-02T03:04:05Z" (UTC), or
// seconds since the epoch; in seconds since the epoch.
Result<std::int64_t> parse_since(std::string_view text, std::int64_t now_s);
// Of LogEntry::time, fractions cut off.
std::optional<std::int64_t> parse_utc_time(std::string_view text);

// Reads whole lines of a file that grows.
class LogFile {
 public:
  explicit LogFile(UniqueFd fd) : fd_(std::move(fd)) {}

  // Goes to the start of the last `lines` lines, or of the file when it has fewer; returns how many
  // there are from there on. Reads backwards, never more than needed.
  Result<std::uint64_t> seek_tail(std::uint64_t lines);

  // nullopt at the end; a line that is not finished yet stays for later.
  Result<std::optional<std::string>> next();

  ino_t inode() const;  // 0 when it can't be told

 private:
  UniqueFd fd_;
  off_t offset_ = 0;
  std::string buffer_;
  std::size_t used_ = 0;  // bytes of buffer_ that were handed out
};

// A log and the older part that it was cut off from (PATH.1), oldest first.
class RotatedLog {
 public:
  static Result<RotatedLog> open(const std::string& path);

  Result<void> seek_tail(std::uint64_t lines);
  Result<std::optional<std::string>> next();  // nullopt at the end for now
  const std::string& path() const { return path_; }

 private:
  RotatedLog(std::string path, std::vector<LogFile> files)
      : path_(std::move(path)), files_(std::move(files)) {}
  std::string path_;
  std::vector<LogFile> files_;  // the first one is being read; never empty
};

}  // namespace umwelt::cli
