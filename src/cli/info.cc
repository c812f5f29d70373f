// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/parse.h"
#include "cgroup/reader.h"
#include "cli/containers.h"
#include "cli/options.h"

namespace umwelt::cli {
namespace {

std::string cgroup_layout(const cgroup::Hierarchies& hierarchies) {
  if (hierarchies.v1.empty()) return hierarchies.v2.empty() ? "none" : "v2";
  return hierarchies.v2.empty() ? "v1" : "hybrid";
}

std::vector<std::string> controllers(const cgroup::Hierarchies& hierarchies) {
  std::vector<std::string> names;
  for (const auto& [controller, mount] : hierarchies.v1) names.push_back(controller);
  if (!hierarchies.v2.empty())
    if (const auto text = read_file(hierarchies.v2 + "/cgroup.controllers")) {
      std::string_view rest = trim(*text);
      while (!rest.empty()) names.emplace_back(next_word(rest));
    }
  return names;
}

Result<nlohmann::json> collect(const Context& context) {
  const container::Directories& directories = context.directories;
  const launch::Store store = UMWELT_TRY(open_store(directories));
  std::size_t running = 0;
  const auto all = UMWELT_TRY(store.all());
  for (const launch::Launched& launched : all) running += is_running(launched);
  const auto hierarchies = UMWELT_TRY(cgroup::Hierarchies::read());
  utsname name{};
  ::uname(&name);
  const auto online = read_file("/sys/devices/system/cpu/online").value_or("");
  const auto cpus = CpuSet::parse(online);

  nlohmann::json daemon = {{"running", false}};
  if (auto client = UMWELT_TRY(connect_daemon(directories))) {
    const auto reply = UMWELT_TRY(client->call({{"op", "ping"}}));
    daemon = {{"running", true},
              {"pid", reply.value("pid", 0)},
              {"version", reply.value("version", "?")}};
  }
  return nlohmann::json{{"version", UMWELT_VERSION},
                        {"daemon", daemon},
                        {"containers", {{"running", running}, {"stopped", all.size() - running}}},
                        {"runtime_dir", directories.runtime},
                        {"state_dir", directories.state},
                        {"config", directories.config},
                        {"cgroup", cgroup_layout(hierarchies)},
                        {"controllers", controllers(hierarchies)},
                        {"cpus_online", cpus ? cpus->list() : ""},
                        {"cpus", cpus ? cpus->count() : 0},
                        {"memory_bytes", static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                                             static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE))},
                        {"kernel", name.release},
                        {"time_namespaces", ::access("/proc/self/ns/time", F_OK) == 0}};
}

std::string render(const nlohmann::json& info) {
  const nlohmann::json& daemon = info["daemon"];
  std::string out;
  const auto line = [&out](std::string_view key, const std::string& value) {
    out += fmt::format("{:<17}{}\n", fmt::format("{}:", key), value);
  };
  line("umwelt", info["version"]);
  line("umweltd", daemon["running"].get<bool>()
                      ? fmt::format("{}, process {}", daemon["version"].get<std::string>(),
                                    daemon["pid"].get<int>())
                      : "does not run (umwelt daemon start)");
  line("Containers",
       fmt::format("{} running, {} stopped", info["containers"]["running"].get<std::size_t>(),
                   info["containers"]["stopped"].get<std::size_t>()));
  line("Runtime folder", info["runtime_dir"]);
  line("State folder", info["state_dir"]);
  line("Configuration", info["config"]);
  line("cgroups", fmt::format("{} ({})", info["cgroup"].get<std::string>(),
                              fmt::join(info["controllers"].get<std::vector<std::string>>(), " ")));
  line("CPUs", fmt::format("{} ({})", info["cpus"].get<unsigned>(),
                           info["cpus_online"].get<std::string>()));
  line("Memory", human_size(info["memory_bytes"].get<std::uint64_t>()));
  line("Kernel", info["kernel"]);
  line("Time namespaces", info["time_namespaces"].get<bool>() ? "yes" : "no");
  return out;
}

Result<int> info(const Context& context, bool json) {
  const nlohmann::json info = UMWELT_TRY(collect(context));
  if (json)
    UMWELT_CHECK(print_json(info));
  else
    UMWELT_CHECK(print(render(info)));
  return 0;
}

}  // namespace

void add_info(CLI::App& app, Context& context) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command =
      add_command(app, context,
                  {.name = "info",
                   .summary = "Show the daemon, the folders and what this machine offers",
                   .examples = "umwelt info\n",
                   .action = [&context, json](const Operands&) { return info(context, *json); }});
  add_flag(*command, "--json", *json, "print JSON");
}

}  // namespace umwelt::cli
