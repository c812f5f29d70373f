// SPDX-License-Identifier: Apache-2.0
// The output of a detached container, one JSON object a line, as docker's json-file driver has it:
//   {"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}
// `log` is one line with its '\n', or a part of a line that is longer than kMaxText, or of one
// that has not ended for a while; bytes that are no UTF-8 are replaced. At kMaxBytes the file
// becomes PATH.1, in the place of an older one, and a new one is begun.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::launch {

// Not thread-safe.
class LogFile {
 public:
  static constexpr std::size_t kMaxBytes = 8U << 20;
  static constexpr std::size_t kMaxText = 16U << 10;

  static Result<LogFile> open(const std::string& path);

  // Whole lines are written, the rest is kept until its line ends or flush(). What comes in one
  // call has one time.
  Result<void> append(const char* stream, std::string_view bytes);
  Result<void> flush();

 private:
  LogFile(std::string path, UniqueFd fd, std::size_t size)
      : path_(std::move(path)), fd_(std::move(fd)), size_(size) {}
  Result<void> write(std::string_view entries);
  Result<void> rotate();

  std::string path_;
  UniqueFd fd_;
  std::size_t size_ = 0;
  std::map<std::string, std::string> pending_;  // by stream
};

}  // namespace umwelt::launch
