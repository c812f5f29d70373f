// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <ctime>
#include <memory>

#include "base/file.h"
#include "base/parse.h"
#include "cli/containers.h"
#include "cli/log_file.h"
#include "cli/options.h"

namespace umwelt::cli {
namespace {

struct Options {
  bool follow = false, timestamps = false;
  std::optional<std::uint64_t> tail;  // nullopt: all
  std::optional<std::int64_t> since_s;
};

Result<std::optional<std::uint64_t>> parse_tail(std::string_view text) {
  if (text == "all") return std::optional<std::uint64_t>();
  const auto lines = parse_u64(text);
  if (!lines)
    return fail(0, fmt::format("'{}' is not a number of lines, or all", printable(text, 60)));
  return lines;
}

Result<void> show(const LogEntry& entry, const Options& options) {
  if (options.since_s && parse_utc_time(entry.time).value_or(0) < *options.since_s) return {};
  const std::string text = (options.timestamps ? entry.time + " " : "") + entry.text;
  if (!entry.error_stream) return print(text);
  fmt::print(stderr, "{}", text);
  return {};
}

Result<void> show_new(RotatedLog& log, const Options& options) {
  while (const auto line = UMWELT_TRY(log.next()))
    if (const auto entry = parse_log_line(*line)) UMWELT_CHECK(show(*entry, options));
  return {};
}

// Wakes when the file grows, and every second at the latest to look whether the container ended.
class Watch {
 public:
  static Result<Watch> open(const std::string& path) {
    UniqueFd fd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (!fd) return fail_errno("inotify_init1");
    if (::inotify_add_watch(fd.get(), path.c_str(), IN_MODIFY) < 0)
      return fail_errno("inotify_add_watch " + path);
    return Watch(std::move(fd));
  }

  void wait() {
    pollfd poll_fd{fd_.get(), POLLIN, 0};
    ::poll(&poll_fd, 1, 1000);
    std::array<char, 4096> events;
    while (::read(fd_.get(), events.data(), events.size()) > 0) {
    }
  }

 private:
  explicit Watch(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

Result<int> logs(const Context& context, const Options& options, const std::string& name) {
  const launch::Store store = UMWELT_TRY(open_store(context.directories));
  const auto launched = UMWELT_TRY(find_container(store, name));
  const std::string path = store.log_path(launched.spec.id);
  auto log = RotatedLog::open(path);
  if (!log && log.error().code == ENOENT && !launched.spec.detach)
    return fail(0, fmt::format("container {} was not started with --detach: its output went to "
                               "whoever started it",
                               launched.spec.name));
  if (!log) return fail(log.error());
  // The folder: a log that is cut goes on as another file.
  auto watch = UMWELT_TRY(Watch::open(store.directory(launched.spec.id)));
  if (options.tail) UMWELT_CHECK(log->seek_tail(*options.tail));
  while (true) {
    // Asked before reading: what was written until its end is then read as well.
    const auto now = store.find(launched.spec.id);
    const bool ended = !now || now->status == launch::Status::kStopped;
    UMWELT_CHECK(show_new(*log, options));
    if (!options.follow || ended) return 0;
    watch.wait();
  }
}

}  // namespace

void add_logs(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      add_command(app, context,
                  {.name = "logs",
                   .summary = "Print the output of a container that was started with --detach",
                   .operands = "NAME",
                   .examples = "umwelt logs web\n"
                               "umwelt logs --follow --tail 20 web\n"
                               "umwelt logs --since 10m --timestamps web\n",
                   .min_operands = 1,
                   .max_operands = 1,
                   .action = [&context, options](const Operands& names) {
                     return logs(context, *options, names.front());
                   }});
  add_flag(*command, "-f,--follow", options->follow, "go on until the container ends");
  add_parsed(
      *command, "-n,--tail", "N", parse_tail,
      [options](std::optional<std::uint64_t> v) { options->tail = v; }, "the last N lines, or all");
  add_parsed(
      *command, "--since", "TIME",
      +[](std::string_view text) { return parse_since(text, std::time(nullptr)); },
      [options](std::int64_t v) { options->since_s = v; },
      "what was written since: an age (10m) or a UTC time (2026-01-02T03:04:05Z)");
  add_flag(*command, "-t,--timestamps", options->timestamps, "put the time before each line");
}

}  // namespace umwelt::cli
