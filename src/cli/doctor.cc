// SPDX-License-Identifier: Apache-2.0
#include "oci/doctor.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/parse.h"
#include "cli/machine.h"
#include "cli/options.h"
#include "cli/output.h"

namespace umwelt::cli {
namespace {

using oci::Finding;
using oci::Level;

struct DoctorOptions {
  bool json = false, watch = false;
  std::optional<std::uint64_t> interval_s;
};

constexpr std::uint64_t kIntervalS = 60;

const char* word_of(Level level) {
  switch (level) {
    case Level::kGood:
      return "ok";
    case Level::kNote:
      return "note";
    case Level::kWarning:
      return "warning";
    case Level::kFailure:
      return "FAILURE";
  }
  return "";
}

Colour colour_of(Level level) {
  switch (level) {
    case Level::kGood:
      return Colour::kGreen;
    case Level::kNote:
      return Colour::kDim;
    case Level::kWarning:
      return Colour::kYellow;
    case Level::kFailure:
      return Colour::kRed;
  }
  return Colour::kNone;
}

bool is_failure(const Finding& finding) { return finding.level == Level::kFailure; }

nlohmann::json to_json(const Finding& finding) {
  nlohmann::json out = {
      {"check", finding.check},
      {"level", finding.level == Level::kFailure ? "failure" : word_of(finding.level)},
      {"text", finding.text}};
  if (!finding.mend.empty()) out["mend"] = finding.mend;
  return out;
}

Result<void> show(const std::vector<Finding>& findings) {
  Table table({{"", false}, {"CHECK", false}, {"FOUND", false}});
  for (const Finding& finding : findings)
    table.add({{word_of(finding.level), colour_of(finding.level)}, finding.check, finding.text});
  std::string out = table.render(colours(STDOUT_FILENO));
  bool first = true;
  for (const Finding& finding : findings) {
    if (finding.mend.empty()) continue;
    out += fmt::format("{}{}: {}\n  {}\n", first ? "\nTo mend it:\n" : "", finding.check,
                       printable(finding.text), printable(finding.mend));
    first = false;
  }
  return print(out);
}

// A line for everything that became wrong, and for what is right again.
Result<void> log_changes(const std::vector<Finding>& before, const std::vector<Finding>& now) {
  const auto wrong = [](const Finding& finding) {
    return finding.level == Level::kWarning || finding.level == Level::kFailure;
  };
  std::string out;
  const std::string stamp = utc_time(std::time(nullptr));
  for (const Finding& finding : now)
    if (wrong(finding) && std::find(before.begin(), before.end(), finding) == before.end())
      out += fmt::format("{} {} {}: {}; {}\n", stamp, word_of(finding.level), finding.check,
                         printable(finding.text), printable(finding.mend));
  for (const Finding& finding : before)
    if (wrong(finding) && std::find(now.begin(), now.end(), finding) == now.end())
      out +=
          fmt::format("{} ok {}: no longer: {}\n", stamp, finding.check, printable(finding.text));
  return print(out);
}

Result<int> watch(const Context& context, const DoctorOptions& options) {
  const std::uint64_t interval_s = options.interval_s.value_or(kIntervalS);
  std::vector<Finding> before;
  UMWELT_CHECK(print(fmt::format("{} every {} s\n", utc_time(std::time(nullptr)), interval_s)));
  for (;;) {
    auto now = oci::examine(context.directories);
    UMWELT_CHECK(log_changes(before, now));
    before = std::move(now);
    // What waited for a daemon that does not answer, and was killed (run_apart()).
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    std::this_thread::sleep_for(std::chrono::seconds(interval_s));
  }
}

Result<int> doctor(const Context& context, const DoctorOptions& options) {
  if (options.watch && options.json) return fail_usage("doctor: give either --watch or --json");
  if (options.interval_s && !options.watch)
    return fail_usage("doctor: --interval is between two looks of --watch: give both");
  if (options.watch) return watch(context, options);
  const auto findings = oci::examine(context.directories);
  const bool failed = std::any_of(findings.begin(), findings.end(), is_failure);
  if (options.json) {
    nlohmann::json out = {{"ok", !failed}, {"findings", nlohmann::json::array()}};
    for (const Finding& finding : findings) out["findings"].push_back(to_json(finding));
    UMWELT_CHECK(print_json(out));
  } else {
    UMWELT_CHECK(show(findings));
  }
  return failed ? kExitFailure : 0;
}

Result<std::uint64_t> parse_interval(std::string_view text) {
  const auto value = parse_u64(text);
  if (!value || *value < 1 || *value > 86400)
    return fail(
        0, fmt::format("'{}' is not a number of seconds from 1 to 86400", printable(text, 40)));
  return *value;
}

}  // namespace

void add_doctor(CLI::App& app, Context& context) {
  auto options = std::make_shared<DoctorOptions>();
  DoctorOptions* o = options.get();
  CLI::App* command = add_command(
      app, context,
      {.name = "doctor",
       .summary = "Say what is wrong on this machine, and what mends it",
       .examples = "umwelt doctor\n"
                   "umwelt doctor --watch >> /var/log/umwelt-doctor.log\n",
       .action = [&context, options](const Operands&) { return doctor(context, *options); }});
  add_flag(*command, "--json", o->json, "print JSON");
  add_flag(*command, "-w,--watch", o->watch, "look again and again, and print what changes");
  add_parsed(
      *command, "--interval", "SECONDS", parse_interval,
      [o](std::uint64_t seconds) { o->interval_s = seconds; }, "between two looks of --watch (60)");
}

}  // namespace umwelt::cli
