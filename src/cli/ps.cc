// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "base/cpu_set.h"
#include "base/file.h"
#include "cli/containers.h"
#include "cli/options.h"

namespace umwelt::cli {
namespace {

constexpr std::size_t kShortCommand = 30;

struct Options {
  bool all = false, quiet = false, whole = false, json = false;
};

// One line of the table, from the launcher's store or from the daemon's list.
struct Row {
  std::string id, name, command, status;
  Colour colour = Colour::kNone;
  std::int64_t created_s = 0;
  std::string cpus = "-", memory = "-";
  nlohmann::json json;
};

std::string ago(std::int64_t then, std::int64_t now) { return human_duration(now - then) + " ago"; }

std::string status_text(const launch::Launched& launched, std::int64_t now) {
  switch (launched.status) {
    case launch::Status::kRunning:
      return "Up " + human_duration(now - launched.started_s);
    case launch::Status::kCreated:
      return "Created";
    case launch::Status::kStopped:
      break;
  }
  const std::string code = launched.exit_code ? fmt::to_string(*launched.exit_code) : "?";
  return fmt::format("Exited ({}) {}{}", code, ago(launched.finished_s, now),
                     launched.oom_killed ? ", out of memory" : "");
}

std::string limit_text(const launch::ResourceLimits& limits) {
  double cpus = HUGE_VAL;
  if (limits.cpuset_cpus) cpus = limits.cpuset_cpus->count();
  if (limits.bandwidth) cpus = std::min(cpus, limits.bandwidth->cpus());
  return std::isinf(cpus) ? "-" : cpus_text(cpus);
}

std::string_view status_word(launch::Status status) {
  switch (status) {
    case launch::Status::kRunning:
      return "running";
    case launch::Status::kCreated:
      return "created";
    case launch::Status::kStopped:
      break;
  }
  return "stopped";
}

Row row_of(const launch::Launched& launched, std::int64_t now) {
  const launch::Spec& spec = launched.spec;
  Row row;
  row.id = spec.id;
  row.name = spec.name;
  row.command = fmt::format("{}", fmt::join(spec.command, " "));
  row.status = status_text(launched, now);
  row.colour = launched.status == launch::Status::kRunning ? Colour::kGreen
               : launched.exit_code.value_or(1) == 0       ? Colour::kDim
                                                           : Colour::kRed;
  row.created_s = launched.created_s;
  row.cpus = limit_text(spec.limits);
  if (spec.limits.memory_bytes) row.memory = human_size(*spec.limits.memory_bytes);
  row.json = {{"id", spec.id},
              {"name", spec.name},
              {"command", spec.command},
              {"status", status_word(launched.status)},
              {"launched_by", "umwelt"},
              {"pid", is_running(launched) ? launched.init_pid : 0},
              {"created", utc_time(launched.created_s)},
              {"started", utc_time(launched.started_s)},
              {"finished", utc_time(launched.finished_s)},
              {"oom_killed", launched.oom_killed}};
  row.json["exit_code"] = launched.exit_code ? nlohmann::json(*launched.exit_code) : nullptr;
  return row;
}

// What runs as the first process now.
std::vector<std::string> command_of(pid_t init) {
  std::string text = read_file(fmt::format("/proc/{}/cmdline", init)).value_or("");
  while (text.ends_with('\0')) text.pop_back();
  if (text.empty()) return {};
  return CLI::detail::split(text, '\0');
}

// From what the daemon has of it; a cpuset of all CPUs is no limit.
void add_limits(const nlohmann::json& resources, Row& row) {
  const auto number = [&resources](const char* key) {
    const auto found = resources.find(key);
    return found != resources.end() && found->is_number() ? std::optional(found->get<double>())
                                                          : std::nullopt;
  };
  double cpus = HUGE_VAL;
  const auto cpuset = CpuSet::parse(resources.value("cpuset", ""));
  if (cpuset && cpuset->count() < static_cast<std::size_t>(::sysconf(_SC_NPROCESSORS_ONLN)))
    cpus = static_cast<double>(cpuset->count());
  const auto quota = number("cpu_quota_us"), period = number("cpu_period_us");
  if (quota && period) cpus = std::min(cpus, *quota / *period);
  row.cpus = std::isinf(cpus) ? "-" : cpus_text(cpus);
  const auto memory = number("memory_bytes");
  row.memory = memory ? human_size(static_cast<std::uint64_t>(*memory)) : "-";
}

Row row_of(const container::Record& record, control::Client& client, std::int64_t now) {
  Row row;
  row.id = record.id;
  row.name = record.name.empty() ? record.id : record.name;
  const std::vector<std::string> command = command_of(record.init_pid);
  row.command = fmt::format("{}", fmt::join(command, " "));
  row.cpus = row.memory = "?";
  if (const auto resources = client.resources(record.id)) add_limits(*resources, row);
  row.status = fmt::format("Up {} (registered)", human_duration(now - record.start_realtime_s));
  row.created_s = record.start_realtime_s;
  row.json = {{"id", record.id},
              {"name", row.name},
              {"command", command},
              {"status", "running"},
              {"launched_by", "other"},
              {"pid", record.init_pid},
              {"created", utc_time(record.start_realtime_s)},
              {"started", utc_time(record.start_realtime_s)},
              {"finished", ""},
              {"exit_code", nullptr},
              {"oom_killed", false}};
  return row;
}

// Containers that other programs registered in the daemon.
void add_registered(const Context& context, const std::set<std::string>& known, std::int64_t now,
                    std::vector<Row>& rows) {
  const auto add = [&]() -> Result<void> {
    auto client = UMWELT_TRY(connect_daemon(context.directories));
    if (!client) return fail(0, "no daemon runs");
    for (const container::Record& record : UMWELT_TRY(client->list()))
      if (!known.contains(record.id)) rows.push_back(row_of(record, *client, now));
    return {};
  };
  if (const auto added = add(); !added)
    print_note("containers of other programs are not shown: " + added.error().message());
}

std::string render_table(const std::vector<Row>& rows, bool whole, std::int64_t now) {
  Table table({{"CONTAINER ID"},
               {"COMMAND"},
               {"CREATED"},
               {"STATUS"},
               {"CPUS", true},
               {"MEMORY", true},
               {"NAME"}});
  for (const Row& row : rows)
    table.add({whole ? row.id : row.id.substr(0, kShortId),
               '"' + (whole ? row.command : printable(row.command, kShortCommand)) + '"',
               ago(row.created_s, now),
               {row.status, row.colour},
               row.cpus,
               row.memory,
               row.name});
  return table.render(colours(STDOUT_FILENO));
}

Result<int> ps(const Context& context, const Options& options) {
  const launch::Store store = UMWELT_TRY(open_store(context.directories));
  const std::int64_t now = std::time(nullptr);
  std::vector<Row> rows;
  std::set<std::string> known;
  for (const launch::Launched& launched : UMWELT_TRY(store.all())) {
    known.insert(launched.spec.id);
    if (options.all || is_running(launched)) rows.push_back(row_of(launched, now));
  }
  if (options.all) add_registered(context, known, now, rows);
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.created_s > b.created_s; });

  if (options.json) {
    nlohmann::json array = nlohmann::json::array();
    for (Row& row : rows) array.push_back(std::move(row.json));
    UMWELT_CHECK(print_json(array));
  } else if (options.quiet) {
    for (const Row& row : rows)
      UMWELT_CHECK(print((options.whole ? row.id : row.id.substr(0, kShortId)) + "\n"));
  } else {
    UMWELT_CHECK(print(render_table(rows, options.whole, now)));
  }
  return 0;
}

}  // namespace

void add_ps(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = add_command(
      app, context,
      {.name = "ps",
       .summary = "List running containers",
       .examples = "umwelt ps\n"
                   "umwelt ps --all                    # stopped ones and other runtimes' too\n"
                   "umwelt ps -q                       # ids alone, for scripts\n"
                   "umwelt ps --json | jq '.[].name'\n",
       .action = [&context, options](const Operands&) { return ps(context, *options); }});
  add_flag(*command, "-a,--all", options->all,
           "stopped containers too, and those that other programs registered");
  add_flag(*command, "-q,--quiet", options->quiet, "ids alone");
  add_flag(*command, "--no-trunc", options->whole, "whole ids and commands");
  add_flag(*command, "--json", options->json, "print JSON");
}

}  // namespace umwelt::cli
