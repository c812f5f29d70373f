// SPDX-License-Identifier: Apache-2.0
// Every parser, reader and renderer, on the recorded machines of tests/fixtures/hosts.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include "base/file.h"
#include "cgroup/reader.h"
#include "host/parse.h"
#include "host/reader.h"
#include "view/files.h"

namespace {

using namespace umwelt;

template <class T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message());
  return std::move(*result);
}

// One recorded machine with its container.
struct Machine {
  std::string name, root;
  std::unique_ptr<host::Reader> host;
  host::Facts facts;
  std::unique_ptr<cgroup::Reader> cgroup;
  cgroup::State state;
  view::Identity identity;
  view::CpuAccounting cpu;
  view::LoadAccounting load;
  view::Resources resources;
};

view::CpuSample cpu_sample(const Machine& machine) {
  const auto cpus = view::choose_cpus(*machine.facts.cpus, machine.state.limits, {});
  view::CpuSample sample;
  sample.boottime_ns = machine.facts.uptime->uptime_ns;
  sample.used = *machine.state.cpu_time;
  for (const view::ShownCpu& shown : cpus.shown)
    sample.shown.emplace_back(shown.id, shown.physical);
  return sample;
}

view::Moment moment_of(const Machine& machine) {
  return {machine.facts.uptime->uptime_ns, &machine.cpu, &machine.load};
}

std::unique_ptr<Machine> read_machine(const std::string& name, const std::string& root) {
  auto machine = std::make_unique<Machine>();
  machine->name = name;
  machine->root = root;
  machine->host = must(host::Reader::open(root));
  machine->facts = must(machine->host->read(~0U));
  const auto hierarchies =
      must(cgroup::Hierarchies::parse(must(read_file(root + "/proc/self/mountinfo"))));
  const auto paths = must(cgroup::parse_proc_cgroup(must(read_file(root + "/container.cgroup"))));
  machine->cgroup =
      std::make_unique<cgroup::Reader>(must(cgroup::Reader::open(hierarchies, paths, root)));
  (void)must(machine->cgroup->read_limits(machine->facts.cpus->online));
  machine->state = must(machine->cgroup->read(~0U));
  machine->identity.id = "bench";
  machine->identity.start_boottime_ns = machine->facts.uptime->uptime_ns / 2;
  machine->cpu = view::next({}, cpu_sample(*machine), machine->identity.start_boottime_ns);
  machine->load = view::next({}, view::LoadSample{machine->facts.uptime->uptime_ns, 0, 1, 1, 4},
                             machine->identity.start_boottime_ns);
  machine->resources =
      view::resources(machine->facts, machine->state, machine->identity, moment_of(*machine));
  return machine;
}

template <class Function>
void add(const Machine& machine, const std::string& what, Function function) {
  benchmark::RegisterBenchmark((what + " " + machine.name).c_str(),
                               [function](benchmark::State& state) {
                                 for (auto _ : state) benchmark::DoNotOptimize(function());
                               });
}

template <class Parse>
void add_parser(const Machine& machine, const std::string& what, const std::string& file,
                Parse parse) {
  const auto text = std::make_shared<std::string>(must(read_file(machine.root + "/" + file)));
  add(machine, "parse_" + what, [text, parse] { return parse(*text); });
}

void add_parsers(const Machine& machine) {
  add_parser(machine, "cpuinfo", "proc/cpuinfo", host::parse_cpuinfo);
  add_parser(machine, "meminfo", "proc/meminfo", host::parse_meminfo);
  add_parser(machine, "stat", "proc/stat", host::parse_stat);
  add_parser(machine, "swaps", "proc/swaps", host::parse_swaps);
  add_parser(machine, "uptime", "proc/uptime", host::parse_uptime);
  add_parser(machine, "loadavg", "proc/loadavg", host::parse_loadavg);
  add_parser(machine, "mountinfo", "proc/self/mountinfo", cgroup::Hierarchies::parse);
  add_parser(machine, "proc_cgroup", "container.cgroup", cgroup::parse_proc_cgroup);
}

void add_readers(const Machine& machine) {
  cgroup::Reader* reader = machine.cgroup.get();
  const CpuSet online = machine.facts.cpus->online;
  add(machine, "read limits", [reader, online] { return reader->read_limits(online).has_value(); });
  for (const auto& [part, name] :
       {std::pair(cgroup::kMemory, "memory"), std::pair(cgroup::kCpuTime, "cpu time"),
        std::pair(cgroup::kTasks, "tasks")})
    add(machine, fmt::format("read {}", name),
        [reader, part = part] { return reader->read(part).has_value(); });
}

void add_view(const Machine& machine) {
  const Machine* m = &machine;
  add(machine, "choose_cpus",
      [m] { return view::choose_cpus(*m->facts.cpus, m->state.limits, m->identity.policy); });
  add(machine, "resources",
      [m] { return view::resources(m->facts, m->state, m->identity, moment_of(*m)); });
  add(machine, "account CPU time",
      [m, sample = cpu_sample(machine)] { return view::next(m->cpu, sample, 0); });
  for (const view::File& file : view::files())
    add(machine, fmt::format("render {}", file.path),
        [m, render = file.render] { return render(m->resources); });
}

}  // namespace

int main(int argc, char** argv) {
  const char* source = std::getenv("UMWELT_SOURCE_ROOT");
  const std::string hosts =
      std::string(source != nullptr ? source : ".") + "/tests/fixtures/hosts/";
  std::vector<std::unique_ptr<Machine>> machines;
  for (const char* name : {"hybrid-2cpu", "v1-8cpu", "v2-8cpu"})
    machines.push_back(read_machine(name, hosts + name));
  for (const auto& machine : machines) {
    add_parsers(*machine);
    add_readers(*machine);
    add_view(*machine);
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
