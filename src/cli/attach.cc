// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/child_process.h"
#include "base/file.h"
#include "base/parse.h"
#include "cli/containers.h"
#include "cli/machine.h"
#include "cli/options.h"
#include "oci/choice.h"
#include "oci/discover.h"
#include "oci/hook.h"

namespace umwelt::cli {
namespace {

constexpr std::size_t kMaxOutputBytes = 1U << 20;
constexpr std::chrono::seconds kRuntimePatience{10};

struct AttachOptions {
  bool all = false;
  bool json = false;
  oci::Choice choice;
};

// Runtimes that are not there, or do not know the name, have nothing to say to the user, nor has
// one that hangs.
Result<std::string> run_quietly(const std::vector<std::string>& command) {
  std::vector<std::string> shell = {"/bin/sh", "-c", "exec \"$@\"", "sh"};
  shell.insert(shell.end(), command.begin(), command.end());
  return output_of(shell, kMaxOutputBytes, kRuntimePatience);
}

Result<std::vector<std::string>> parse_views(std::string_view text) {
  oci::Choice choice;
  UMWELT_CHECK(oci::apply_choice("umwelt.views", text, choice));
  return std::move(choice.views);
}

std::string describe(const oci::Found& found) {
  return fmt::format("{}{}{}", found.runtime, found.runtime.empty() ? "" : " ",
                     found.id.empty() ? fmt::format("process {}", found.pid) : found.id);
}

const container::Record* record_of(const std::vector<container::Record>& records, pid_t init) {
  const auto found =
      std::find_if(records.begin(), records.end(), [init](const container::Record& record) {
        return record.init_pid == init &&
               container::process_lives(record.init_pid, record.init_starttime);
      });
  return found == records.end() ? nullptr : &*found;
}

// What is to be printed of it.
Result<std::string> admit(const Context& context, const AttachOptions& options,
                          const oci::Found& found) {
  auto client = UMWELT_TRY(control::connect_or_start(context.directories));
  const auto records = UMWELT_TRY(client.list());
  container::Record record;
  // Registered by who started it, maybe under a name that only that one knows.
  if (const container::Record* known = record_of(records, found.pid)) {
    record = *known;
  } else {
    record.id = oci::record_id(found.id.empty() ? fmt::format("pid-{}", found.pid) : found.id);
    record.name = record.id;
    record.init_pid = found.pid;
    record.init_starttime = UMWELT_TRY(container::read_starttime(found.pid));
    record.policy = options.choice.policy;
  }
  const oci::Admitted admitted = UMWELT_TRY(oci::admit(
      std::move(record), context.directories, options.choice.views, {}, launch::kAttachPatience));
  if (options.json)
    return json_text({{"id", admitted.record.id},
                      {"runtime", found.runtime},
                      {"pid", found.pid},
                      {"mounted", admitted.attached.mounted},
                      {"present", admitted.attached.present}});
  // A cgroup that a container made itself has any name.
  return fmt::format("{}: {} mounted, {} there already\n", printable(describe(found)),
                     admitted.attached.mounted, admitted.attached.present);
}

Result<void> attach_one(const Context& context, const AttachOptions& options,
                        const oci::Found& found) {
  return print(UMWELT_TRY(run_apart([&] { return admit(context, options, found); })));
}

// What its environment says, as to the hook; of labels and annotations only the runtime knows.
bool is_off(pid_t init) {
  const auto text = read_file("/proc/" + std::to_string(init) + "/environ");
  std::string_view rest = text ? std::string_view(*text) : std::string_view();
  constexpr std::string_view kPrefix = "umwelt=";
  oci::Choice choice;
  while (!rest.empty())
    if (const auto word = next_part(rest, '\0'); word.starts_with(kPrefix))
      (void)oci::apply_choice("umwelt", word.substr(kPrefix.size()), choice);
  return choice.mode == oci::Mode::kOff;
}

Result<int> attach_all(const Context& context, const AttachOptions& options) {
  int code = 0;
  std::vector<container::Record> records;
  if (auto client = UMWELT_TRY(connect_daemon(context.directories)))
    records = UMWELT_TRY(client->list());
  const launch::Store store = UMWELT_TRY(open_store(context.directories));
  for (const oci::Found& found : UMWELT_TRY(oci::find_containers())) {
    // Of another runtime folder: it has the files of that one's daemon.
    if (found.runtime == "umwelt" && !store.find(found.id)) continue;
    if (found.runtime.empty() || found.host_pids) {
      if (record_of(records, found.pid) != nullptr) continue;
      print_note(fmt::format(
          "process {} is in a container {}; umwelt attach {}", found.pid,
          found.host_pids ? "without a pid namespace, " + describe(found) : "of no known runtime",
          found.pid));
      continue;
    }
    if (is_off(found.pid)) continue;
    if (const auto done = attach_one(context, options, found); !done) {
      print_error({done.error().code, describe(found) + ": " + done.error().text});
      code = kExitFailure;
    }
  }
  return code;
}

// Of other runtimes, else of the launcher's own, whose names nobody else knows, else what is
// registered.
Result<oci::Found> find(const Context& context, const std::string& name) {
  const auto found = oci::find_container(name, run_quietly);
  if (found) return *found;
  const launch::Store store = UMWELT_TRY(open_store(context.directories));
  if (store.find(name))
    return oci::find_container(UMWELT_TRY(find_running(store, name)).spec.id, run_quietly);
  if (auto client = UMWELT_TRY(connect_daemon(context.directories))) {
    const auto records = UMWELT_TRY(client->list());
    const container::Record* record = find_registered(records, name);
    if (record != nullptr && record->init_pid > 0)
      return oci::find_container(std::to_string(record->init_pid), run_quietly);
  }
  return fail(found.error());
}

Result<int> attach(const Context& context, const AttachOptions& options, const Operands& names) {
  if (options.all != names.empty())
    return fail_usage("attach: give either names or --all; see umwelt attach --help");
  // Who may not look at processes would be told that there is no such container.
  if (::geteuid() != 0) return fail(0, "attach: only root can give a container files, use sudo");
  if (options.all) return attach_all(context, options);
  return for_each_name(names, [&](const std::string& name) -> Result<void> {
    return attach_one(context, options, UMWELT_TRY(find(context, name)));
  });
}

}  // namespace

void add_attach(CLI::App& app, Context& context) {
  auto options = std::make_shared<AttachOptions>();
  AttachOptions* o = options.get();
  CLI::App* command =
      add_command(app, context,
                  {.name = "attach",
                   .summary = "Give running containers of other runtimes their files",
                   .operands = "[CONTAINER|PID...]",
                   .examples = "umwelt attach web\n"
                               "umwelt attach --all\n",
                   .max_operands = kAnyNumber,
                   .action = [&context, options](const Operands& names) {
                     return attach(context, *options, names);
                   }});
  add_flag(*command, "-a,--all", o->all, "every container of a known runtime");
  add_flag(*command, "--json", o->json, "print JSON, one line a container");
  add_parsed(
      *command, "--views", "LIST", parse_views,
      [o](std::vector<std::string> views) { o->choice.views = std::move(views); },
      "groups of files: cpu, memory, load, uptime, io, info (all)");
  add_policy_options(*command, o->choice.policy);
}

void add_oci_hook(CLI::App& app, Context& context) {
  add_command(app, context,
              {.name = "oci-hook",
               .summary = "What OCI runtimes call when they make or end a container",
               .operands = "createRuntime|createContainer|poststop",
               .examples = "umwelt oci-hook createRuntime < state.json\n",
               .min_operands = 1,
               .max_operands = 1,
               .action = [&context](const Operands& stage) -> Result<int> {
                 return oci::run_hook({"--runtime-dir", context.directories.runtime, stage[0]});
               }});
}

}  // namespace umwelt::cli
