// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/file.h"
#include "base/parse.h"
#include "cgroup/reader.h"
#include "cli/containers.h"
#include "cli/options.h"
#include "launch/cgroup.h"

namespace umwelt::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  bool watch = false, json = false;
  std::chrono::milliseconds interval{1000};
};

// One container that is measured: its cgroup held open, and what it had used at the last look.
struct Meter {
  launch::Launched launched;
  cgroup::Reader reader;
  cgroup::CpuTime used;
  Clock::time_point at;
};

struct Sample {
  std::string id, name;
  double cpu_percent = 0, throttled_percent = 0;
  double cpus = 0;  // that it may use
  std::uint64_t memory_bytes = 0, swap_bytes = 0, pids = 0;
  std::optional<std::uint64_t> memory_limit_bytes, pids_limit;
};

Result<CpuSet> read_online() {
  const std::string text = UMWELT_TRY(read_file("/sys/devices/system/cpu/online"));
  auto online = CpuSet::parse(text);
  if (!online) return fail(EPROTO, "parsing /sys/devices/system/cpu/online");
  return *std::move(online);
}

Result<Meter> open_meter(const cgroup::Hierarchies& hierarchies, const CpuSet& online,
                         launch::Launched launched) {
  cgroup::Paths paths;
  const std::string path = "/" + launch::cgroup_name(launched.spec.id);
  for (const auto& [controller, mount] : hierarchies.v1) paths[controller] = path;
  if (!hierarchies.v2.empty()) paths[""] = path;
  auto reader = UMWELT_TRY(cgroup::Reader::open(hierarchies, paths));
  UMWELT_TRY(reader.read_limits(online));
  const cgroup::State state = UMWELT_TRY(reader.read(cgroup::kCpuTime));
  return Meter{std::move(launched), std::move(reader), state.cpu_time.value_or(cgroup::CpuTime()),
               Clock::now()};
}

Result<Sample> measure(Meter& meter, const CpuSet& online) {
  UMWELT_TRY(meter.reader.read_limits(online));
  const cgroup::State state =
      UMWELT_TRY(meter.reader.read(cgroup::kSwap | cgroup::kCpuTime | cgroup::kTasks));
  const Clock::time_point now = Clock::now();
  const double elapsed_ns = std::chrono::duration<double, std::nano>(now - meter.at).count();
  const cgroup::CpuTime used = state.cpu_time.value_or(cgroup::CpuTime());
  const auto busy = [](const cgroup::CpuTime& t) { return t.user_ns + t.nice_ns + t.system_ns; };
  const auto percent = [&](std::uint64_t after, std::uint64_t before) {
    return 100.0 * static_cast<double>(saturating_sub(after, before)) / elapsed_ns;
  };

  Sample sample;
  sample.id = meter.launched.spec.id;
  sample.name = meter.launched.spec.name;
  sample.cpu_percent = percent(busy(used), busy(meter.used));
  sample.throttled_percent = percent(used.throttled_ns, meter.used.throttled_ns);
  sample.cpus = state.limits.cpus.count();
  if (state.limits.bandwidth) sample.cpus = std::min(sample.cpus, state.limits.bandwidth->cpus());
  if (state.memory) {
    // As docker has it: page cache that nobody used lately is not counted.
    sample.memory_bytes =
        saturating_sub(state.memory->usage_bytes, state.memory->stat.inactive_file);
    sample.swap_bytes = state.memory->swap_usage_bytes;
  }
  sample.memory_limit_bytes = state.limits.memory_max_bytes;
  if (state.tasks) sample.pids = state.tasks->total;
  sample.pids_limit = state.limits.pids_max;
  meter.used = used;
  meter.at = now;
  return sample;
}

nlohmann::json to_json(const Sample& s) {
  const auto number = [](const std::optional<std::uint64_t>& n) {
    return n ? nlohmann::json(*n) : nlohmann::json(nullptr);
  };
  const auto rounded = [](double percent) {
    return static_cast<double>(std::llround(percent * 100)) / 100;
  };
  return {{"id", s.id},
          {"name", s.name},
          {"cpu_percent", rounded(s.cpu_percent)},
          {"throttled_percent", rounded(s.throttled_percent)},
          {"cpus", s.cpus},
          {"memory_bytes", s.memory_bytes},
          {"memory_limit_bytes", number(s.memory_limit_bytes)},
          {"swap_bytes", s.swap_bytes},
          {"pids", s.pids},
          {"pids_limit", number(s.pids_limit)}};
}

Colour alarm(double percent) {
  return percent >= 90 ? Colour::kRed : percent >= 70 ? Colour::kYellow : Colour::kNone;
}

std::string render_table(const std::vector<Sample>& samples) {
  Table table({{"NAME"},
               {"CPU %", true},
               {"OF CPUS", true},
               {"THROTTLED", true},
               {"MEMORY", true},
               {"LIMIT", true},
               {"MEM %", true},
               {"SWAP", true},
               {"PIDS", true},
               {"LIMIT", true}});
  for (const Sample& s : samples) {
    const double memory_percent = s.memory_limit_bytes && *s.memory_limit_bytes > 0
                                      ? 100.0 * static_cast<double>(s.memory_bytes) /
                                            static_cast<double>(*s.memory_limit_bytes)
                                      : 0;
    table.add(
        {s.name,
         {fmt::format("{:.1f}", s.cpu_percent), alarm(s.cpus > 0 ? s.cpu_percent / s.cpus : 0)},
         cpus_text(s.cpus),
         {fmt::format("{:.1f}%", s.throttled_percent),
          s.throttled_percent >= 10 ? Colour::kYellow : Colour::kNone},
         human_size(s.memory_bytes),
         s.memory_limit_bytes ? human_size(*s.memory_limit_bytes) : "-",
         {s.memory_limit_bytes ? fmt::format("{:.1f}", memory_percent) : "-",
          alarm(memory_percent)},
         human_size(s.swap_bytes),
         fmt::to_string(s.pids),
         s.pids_limit ? fmt::to_string(*s.pids_limit) : "-"});
  }
  return table.render(colours(STDOUT_FILENO));
}

Result<void> show(const Options& options, const std::vector<Sample>& samples) {
  if (options.json && options.watch) {
    for (const Sample& s : samples) {
      nlohmann::json line = to_json(s);
      line["time"] = utc_time(::time(nullptr));
      UMWELT_CHECK(print_json_line(line));
    }
    return {};
  }
  if (options.json) {
    nlohmann::json array = nlohmann::json::array();
    for (const Sample& s : samples) array.push_back(to_json(s));
    return print_json(array);
  }
  std::string text = render_table(samples);
  if (options.watch && is_terminal(STDOUT_FILENO)) {
    // Line by line over the last picture, which flickers less than a cleared screen.
    std::string screen = "\033[H";
    std::string_view rest = text;
    while (const auto line = next_line(rest)) screen += fmt::format("{}\033[K\n", *line);
    text = screen + "\033[J";
  }
  return print(text);
}

class Meters {
 public:
  Meters(const launch::Store& store, const Operands& names) : store_(store), names_(names) {}

  Result<void> open() {
    hierarchies_ = UMWELT_TRY(cgroup::Hierarchies::read());
    for (const std::string& name : names_) UMWELT_TRY(find_running(store_, name));
    return follow();
  }

  // Containers come and go: those that are named, or all that run.
  Result<void> follow() {
    const CpuSet online = UMWELT_TRY(read_online());
    std::vector<launch::Launched> running;
    if (names_.empty()) {
      running = UMWELT_TRY(store_.all());
    } else {
      for (const std::string& name : names_)
        if (auto found = store_.find(name)) running.push_back(*std::move(found));
    }
    std::map<std::string, Meter> kept;
    for (launch::Launched& launched : running) {
      if (!is_running(launched)) continue;
      const std::string id = launched.spec.id;
      if (auto old = meters_.extract(id)) {
        kept.insert(std::move(old));
      } else if (auto meter = open_meter(hierarchies_, online, std::move(launched))) {
        kept.emplace(id, *std::move(meter));
      } else if (meter.error().code != ENOENT && meter.error().code != ENODEV) {
        return fail(meter.error());
      }
    }
    meters_ = std::move(kept);
    return {};
  }

  Result<std::vector<Sample>> measure_all() {
    const CpuSet online = UMWELT_TRY(read_online());
    std::vector<Sample> samples;
    for (auto& [id, meter] : meters_) {
      auto sample = measure(meter, online);
      // It ended between two looks.
      if (!sample && (sample.error().code == ENODEV || sample.error().code == ENOENT)) continue;
      if (!sample) return fail(sample.error());
      samples.push_back(*std::move(sample));
    }
    std::sort(samples.begin(), samples.end(),
              [](const Sample& a, const Sample& b) { return a.name < b.name; });
    return samples;
  }

  bool empty() const { return meters_.empty(); }

 private:
  const launch::Store& store_;
  const Operands& names_;
  cgroup::Hierarchies hierarchies_;
  std::map<std::string, Meter> meters_;  // by id
};

Result<int> stats(const Context& context, const Options& options, const Operands& names) {
  const launch::Store store = UMWELT_TRY(open_store(context.directories));
  Meters meters(store, names);
  UMWELT_CHECK(meters.open());
  if (options.watch && !options.json && is_terminal(STDOUT_FILENO))
    UMWELT_CHECK(print("\033[H\033[J"));
  do {
    if (!meters.empty() || options.watch) {
      const Progress progress("measuring");
      std::this_thread::sleep_for(options.interval);
    }
    const auto samples = UMWELT_TRY(meters.measure_all());
    UMWELT_CHECK(show(options, samples));
    UMWELT_CHECK(meters.follow());
    if (!names.empty() && meters.empty()) break;
  } while (options.watch);
  return 0;
}

Result<std::chrono::milliseconds> parse_interval(std::string_view text) {
  const auto seconds = parse_decimal(text);
  if (!seconds || *seconds < 0.1 || *seconds > 3600)
    return fail(
        0, fmt::format("'{}' is not a number of seconds from 0.1 to 3600", printable(text, 60)));
  return std::chrono::milliseconds(std::llround(*seconds * 1000));
}

}  // namespace

void add_stats(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      add_command(app, context,
                  {.name = "stats",
                   .summary = "Show what running containers use of CPUs, memory and processes",
                   .operands = "[NAME...]",
                   .examples = "umwelt stats                       # all, measured over a second\n"
                               "umwelt stats --watch web           # until Ctrl-C\n"
                               "umwelt stats --json | jq '.[].memory_bytes'\n",
                   .max_operands = kAnyNumber,
                   .action = [&context, options](const Operands& names) {
                     return stats(context, *options, names);
                   }});
  add_flag(*command, "-w,--watch", options->watch, "again and again, until Ctrl-C");
  add_parsed(
      *command, "-i,--interval", "SECONDS", parse_interval,
      [options](std::chrono::milliseconds v) { options->interval = v; },
      "time that is measured over (1)");
  add_flag(*command, "--json", options->json, "print JSON; with --watch one object a line");
}

}  // namespace umwelt::cli
