// SPDX-License-Identifier: Apache-2.0
// What the commands print: aligned tables, amounts as people say them, one-line errors. Colour and
// progress only where a person looks at a terminal (and NO_COLOR is not set).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/result.h"

namespace umwelt::cli {

// "umwelt: ..." on stderr, always one line.
void print_error(const Error& error);
void print_note(std::string_view text);  // the same, for what is no failure
// The whole text on stdout; EPIPE and the like (a closed `| head`, a full disk) are an Error.
Result<void> print(std::string_view text);
// With a line end; bytes that are no UTF-8 (a hostile command line) are replaced, characters that
// steer a terminal escaped.
std::string json_text(const nlohmann::json& json, int indent = -1);
Result<void> print_json(const nlohmann::json& json);
Result<void> print_json_line(const nlohmann::json& json);

bool is_terminal(int fd);
bool colours(int fd);
unsigned terminal_columns();  // of stdout, else COLUMNS, else 80

enum class Colour { kNone, kGreen, kYellow, kRed, kDim };

// Columns are as wide as their widest cell and two blanks apart; the last one is not padded.
// Control characters in a cell become '?'.
class Table {
 public:
  struct Column {
    std::string title;
    bool right = false;  // numbers
  };
  struct Cell {
    std::string text;
    Colour colour = Colour::kNone;
    Cell(std::string t, Colour c = Colour::kNone) : text(std::move(t)), colour(c) {}
    Cell(const char* t) : text(t) {}
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<Cell> row);
  std::string render(bool coloured) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

// Without control characters, at most `width` characters wide, with "..." when it was cut (0: any
// width).
std::string printable(std::string_view text, std::size_t width = 0);

// As docker says it: "Less than a second", "12 seconds", "About a minute", "3 hours", "2 weeks".
std::string human_duration(std::int64_t seconds);
// Four digits at most and a binary unit: "256MiB", "1.5GiB", "0B".
std::string human_size(std::uint64_t bytes);
// "2026-01-02T03:04:05Z", "" for 0.
std::string utc_time(std::int64_t seconds);

// While it lives, and after a second of living, one line on the terminal's stderr says what is
// waited for and for how long; it is wiped at the end. Has a thread of its own then: destroy it
// before anything forks.
class Progress {
 public:
  explicit Progress(std::string text);
  ~Progress();
  // What is done now; thread-safe.
  void update(std::string text);

 private:
  void draw();
  std::string text_;   // guarded by mutex_
  bool done_ = false;  // guarded by mutex_
  std::mutex mutex_;
  std::condition_variable wake_;
  std::thread thread_;
};

}  // namespace umwelt::cli
