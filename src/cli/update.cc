// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>

#include "cli/containers.h"
#include "cli/options.h"
#include "launch/cgroup.h"
#include "launch/settings.h"

namespace umwelt::cli {
namespace {

template <class T>
void overwrite(std::optional<T>& old, const std::optional<T>& now) {
  if (now) old = now;
}

launch::ResourceLimits merged(launch::ResourceLimits old, const launch::ResourceLimits& now) {
  overwrite(old.cpuset_cpus, now.cpuset_cpus);
  overwrite(old.cpuset_mems, now.cpuset_mems);
  overwrite(old.bandwidth, now.bandwidth);
  overwrite(old.cpu_shares, now.cpu_shares);
  overwrite(old.memory_bytes, now.memory_bytes);
  overwrite(old.memory_swap_bytes, now.memory_swap_bytes);
  overwrite(old.pids_limit, now.pids_limit);
  if (now.memory_swap_unlimited) old.memory_swap_bytes.reset();
  if (now.memory_swap_unlimited || now.memory_swap_bytes)
    old.memory_swap_unlimited = now.memory_swap_unlimited;
  return old;
}

Result<void> update_one(const Context& context, launch::Store& store, const LimitOptions& options,
                        const std::string& name) {
  const std::string id = UMWELT_TRY(find_running(store, name)).spec.id;
  const UniqueFd turn = UMWELT_TRY(store.take_turn(id));
  const launch::Launched launched = UMWELT_TRY(find_running(store, id));  // as it is by now
  const auto limits = UMWELT_TRY(resource_limits(options, launched.spec.limits));
  UMWELT_CHECK(launch::check_limits(limits));
  if (const auto applied = launch::apply_limits(launched.spec.id, limits); !applied)
    return fail(applied.error().code,
                fmt::format("container {}: {}", launched.spec.name, applied.error().text));
  UMWELT_TRY(store.update(launched.spec.id, [&](launch::Launched& now) {
    now.spec.limits = merged(now.spec.limits, limits);
  }));
  // It has the machine's files, unless umwelt attach gave it its own.
  const bool viewless = launched.spec.views == launch::Views::kNone;
  auto client = UMWELT_TRY(connect_daemon(context.directories));
  if (client) {
    const auto refreshed = client->refresh(launched.spec.id);
    if (!viewless || refreshed || refreshed.error().code != ENOENT) UMWELT_CHECK(refreshed);
  } else if (!viewless) {
    print_note(
        fmt::format("the limits of {} are changed, but no daemon runs: what the container "
                    "sees follows when one does (umwelt daemon start)",
                    launched.spec.name));
  }
  return print(name + "\n");
}

Result<int> update(const Context& context, const LimitOptions& options, const Operands& names) {
  if (!options.any()) return fail_usage("update: no limit is given; see umwelt update --help");
  if (const auto good = check_limit_options(options); !good) return fail_usage(good.error().text);
  auto store = UMWELT_TRY(open_store(context.directories));
  return for_each_name(
      names, [&](const std::string& name) { return update_one(context, store, options, name); });
}

}  // namespace

void add_update(CLI::App& app, Context& context) {
  auto options = std::make_shared<LimitOptions>();
  CLI::App* command = add_command(
      app, context,
      {.name = "update",
       .summary = "Change the limits of running containers; what they see follows at once",
       .operands = "NAME [NAME...]",
       .examples = "umwelt update --memory 512m web\n"
                   "umwelt update --cpus 1.5 --cpuset-cpus 0-1 web db\n",
       .min_operands = 1,
       .max_operands = kAnyNumber,
       .action = [&context, options](const Operands& names) {
         return update(context, *options, names);
       }});
  add_limit_options(*command, *options);
}

}  // namespace umwelt::cli
