// SPDX-License-Identifier: Apache-2.0
#include "cli/output.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/parse.h"

namespace umwelt::cli {
namespace {

void print_line(std::string_view text) {
  const std::string line = "umwelt: " + printable(text) + "\n";
  // Nothing can be done when even stderr is gone.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// Characters, as UTF-8 counts them.
std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); }));
}

// Bytes of the first character; 0 when it is no whole UTF-8 character or one that steers a terminal
// (C0, DEL, C1).
std::size_t character_length(std::string_view text) {
  const auto first = static_cast<unsigned char>(text.front());
  if (first < 0x80) return first < 0x20 || first == 0x7f ? 0 : 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if (!is_continuation(text[i])) return 0;
  return first == 0xc2 && static_cast<unsigned char>(text[1]) < 0xa0 ? 0 : length;
}

std::string_view escape(Colour colour) {
  switch (colour) {
    case Colour::kGreen:
      return "\033[32m";
    case Colour::kYellow:
      return "\033[33m";
    case Colour::kRed:
      return "\033[31m";
    case Colour::kDim:
      return "\033[2m";
    case Colour::kNone:
      break;
  }
  return {};
}

}  // namespace

void print_error(const Error& error) {
  const bool refused = error.code == EACCES || error.code == EPERM;
  const bool unprivileged = refused && ::geteuid() != 0;
  print_line(error.message() + (unprivileged ? "; umwelt needs to be run as root for this" : ""));
}
void print_note(std::string_view text) { print_line(text); }

Result<void> print(std::string_view text) {
  return write_all(STDOUT_FILENO, text, "writing to standard output");
}

std::string json_text(const nlohmann::json& json, int indent) {
  const std::string text =
      json.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  // JSON escapes C0 alone; what is left of DEL and C1 is in strings.
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    if (byte == 0x7f)
      out += "\\u007f";
    else if (byte == 0xc2 && next < 0xa0)
      out += fmt::format("\\u{:04x}", text[++i] & 0xff);
    else
      out += text[i];
  }
  return out;
}

Result<void> print_json(const nlohmann::json& json) { return print(json_text(json, 2)); }

Result<void> print_json_line(const nlohmann::json& json) { return print(json_text(json)); }

bool is_terminal(int fd) { return ::isatty(fd) == 1; }

bool colours(int fd) {
  const char* term = std::getenv("TERM");
  const char* no_color = std::getenv("NO_COLOR");
  return is_terminal(fd) && (no_color == nullptr || *no_color == '\0') && term != nullptr &&
         std::string_view(term) != "dumb";
}

unsigned terminal_columns() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  if (const char* columns = std::getenv("COLUMNS"))
    if (const auto n = parse_u64(columns); n && *n >= 20 && *n <= 1000)
      return static_cast<unsigned>(*n);
  return 80;
}

void Table::add(std::vector<Cell> row) {
  for (Cell& cell : row) cell.text = printable(cell.text);
  row.resize(columns_.size(), Cell(""));
  rows_.push_back(std::move(row));
}

std::string Table::render(bool coloured) const {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    std::size_t width = width_of(columns_[i].title);
    for (const auto& row : rows_) width = std::max(width, width_of(row[i].text));
    widths.push_back(width);
  }
  std::string out;
  const auto put = [&](std::size_t i, const std::string& text, Colour colour) {
    const std::string padding(widths[i] - width_of(text), ' ');
    const bool paint = coloured && colour != Colour::kNone;
    if (columns_[i].right) out += padding;
    if (paint) out += escape(colour);
    out += text;
    if (paint) out += "\033[0m";
    const bool last = i + 1 == columns_.size();
    if (!columns_[i].right && !last) out += padding;
    out += last ? "\n" : "  ";
  };
  for (std::size_t i = 0; i < columns_.size(); ++i) put(i, columns_[i].title, Colour::kNone);
  for (const auto& row : rows_)
    for (std::size_t i = 0; i < columns_.size(); ++i) put(i, row[i].text, row[i].colour);
  return out;
}

std::string printable(std::string_view text, std::size_t width) {
  std::vector<std::string> characters;
  while (!text.empty()) {
    const std::size_t length = character_length(text);
    characters.emplace_back(length == 0 ? "?" : text.substr(0, length));
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  std::string out;
  const bool cut = width > 0 && characters.size() > width;
  const std::size_t dots = cut ? std::min<std::size_t>(width, 3) : 0;
  for (std::size_t i = 0; i < (cut ? width - dots : characters.size()); ++i) out += characters[i];
  return out + std::string(dots, '.');
}

std::string human_duration(std::int64_t seconds) {
  const auto some = [](std::int64_t n, std::string_view unit) {
    return fmt::format("{} {}{}", n, unit, n == 1 ? "" : "s");
  };
  if (seconds < 1) return "Less than a second";
  if (seconds < 60) return some(seconds, "second");
  const std::int64_t minutes = seconds / 60;
  if (minutes == 1) return "About a minute";
  if (minutes < 60) return some(minutes, "minute");
  const std::int64_t hours = (seconds + 1800) / 3600;
  if (hours == 1) return "About an hour";
  if (hours < 48) return some(hours, "hour");
  if (hours < 24 * 14) return some(hours / 24, "day");
  if (hours < 24 * 60) return some(hours / 24 / 7, "week");
  if (hours < 24 * 365 * 2) return some(hours / 24 / 30, "month");
  return some(hours / 24 / 365, "year");
}

std::string human_size(std::uint64_t bytes) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  // 1023.7 would be printed as "1024" and read as a mistake; it is the next unit.
  if (value >= 999.95 && value < 1024 && unit > 0) value = std::floor(value);
  return fmt::format("{:.4g}{}", value, kUnits[unit]);
}

std::string utc_time(std::int64_t seconds) {
  if (seconds == 0) return {};
  const std::time_t when = seconds;
  std::tm parts{};
  std::array<char, 32> text{};
  ::gmtime_r(&when, &parts);
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text.data();
}

Progress::Progress(std::string text) : text_(std::move(text)) {
  if (is_terminal(STDERR_FILENO)) thread_ = std::thread([this] { draw(); });
}

Progress::~Progress() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Progress::update(std::string text) {
  const std::lock_guard lock(mutex_);
  text_ = std::move(text);
}

void Progress::draw() {
  constexpr std::array kFrames = {"|", "/", "-", "\\"};
  const auto start = std::chrono::steady_clock::now();
  bool drawn = false;
  std::unique_lock lock(mutex_);
  auto pause = std::chrono::milliseconds(1000);
  for (std::size_t frame = 0; !wake_.wait_for(lock, pause, [this] { return done_; }); ++frame) {
    const auto waited =
        std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - start);
    fmt::print(stderr, "\r\033[K{} {} ({} s)", kFrames[frame % kFrames.size()], text_,
               waited.count());
    std::fflush(stderr);
    drawn = true;
    pause = std::chrono::milliseconds(120);
  }
  if (!drawn) return;
  fmt::print(stderr, "\r\033[K");
  std::fflush(stderr);
}

}  // namespace umwelt::cli
