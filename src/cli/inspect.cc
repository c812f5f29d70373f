// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/containers.h"
#include "cli/options.h"
#include "launch/cgroup.h"

namespace umwelt::cli {
namespace {

// What is known of a container: as it was launched ("launched"), as the daemon knows it
// ("registered") and what it sees now ("resources"); null where that part does not exist.
Result<nlohmann::json> inspect_one(const Context& context, const launch::Store& store,
                                   const std::string& name) {
  nlohmann::json out = {{"launched", nullptr}, {"registered", nullptr}, {"resources", nullptr}};
  const auto launched = store.find(name);
  if (!launched && launched.error().code != ENOENT) return fail(launched.error());
  std::string id = name;
  if (launched) {
    id = launched->spec.id;
    out["launched"] = launch::to_json(*launched);
    if (is_running(*launched))
      out["processes"] = launch::processes(id).value_or(std::vector<pid_t>());
  }
  auto client = UMWELT_TRY(connect_daemon(context.directories));
  out["daemon"] = client.has_value();
  if (client) {
    const auto records = UMWELT_TRY(client->list());
    const container::Record* record = find_registered(records, id);
    if (record != nullptr && (!launched || record->id == id)) {
      out["registered"] = container::to_json(*record);
      if (auto resources = client->resources(record->id)) out["resources"] = *std::move(resources);
      return out;
    }
  }
  if (!launched) return fail(find_container(store, name).error());
  return out;
}

Result<int> inspect(const Context& context, const Operands& names) {
  const launch::Store store = UMWELT_TRY(open_store(context.directories));
  nlohmann::json all = nlohmann::json::array();
  const auto add = [&](const std::string& name) -> Result<void> {
    all.push_back(UMWELT_TRY(inspect_one(context, store, name)));
    return {};
  };
  const int exit_code = UMWELT_TRY(for_each_name(names, add));
  UMWELT_CHECK(print_json(all));
  return exit_code;
}

}  // namespace

void add_inspect(CLI::App& app, Context& context) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command = add_command(
      app, context,
      {.name = "inspect",
       .summary = "Print everything known of containers as JSON",
       .operands = "NAME [NAME...]",
       .examples = "umwelt inspect web\n"
                   "umwelt inspect web | jq '.[0].resources'\n",
       .min_operands = 1,
       .max_operands = kAnyNumber,
       .action = [&context, json](const Operands& names) { return inspect(context, names); }});
  add_flag(*command, "--json", *json, "print JSON (it always does)");
}

}  // namespace umwelt::cli
