// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sys/random.h>

#include <filesystem>
#include <memory>

#include "base/parse.h"
#include "cli/commands.h"
#include "cli/containers.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/run_options.h"
#include "cli/storage.h"
#include "launch/launch.h"

namespace umwelt::cli {
namespace {

constexpr const char* kExamples =
    "umwelt run -- nproc\n"
    "umwelt run --cpus 1.5 --memory 512m -- java -jar app.jar\n"
    "umwelt run --cpuset-cpus 0-1 --rootfs /srv/images/alpine -it -- sh\n"
    "umwelt run --image debian-12 --disk 10g -- bash -c 'df -h /'\n"
    "umwelt run --detach --name web --memory 256m -v /srv/www:/www:ro -- nginx -g 'daemon off;'\n"
    "umwelt run --rm --network none --read-only --tmpfs /tmp:size=64m --user nobody -- ./job\n";

struct RunOptions {
  launch::Spec spec;  // what each option says by itself
  LimitOptions limits;
  EnvironmentOptions environment;
  DiskOptions disk;
};

// One that is no size: it may become the name of a vdisk.
Result<std::string> make_id() {
  std::string id;
  while (id.empty() || parse_size(id)) {
    unsigned char bytes[6];
    if (::getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes)) return fail_errno("getrandom");
    id.clear();
    for (const unsigned char byte : bytes) id += fmt::format("{:02x}", byte);
  }
  return id;
}

Result<std::string> parse_rootfs(std::string_view text) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::canonical(std::string(text), error);
  if (error || !std::filesystem::is_directory(path, error))
    return fail(0, fmt::format("'{}' is not a directory", printable(text, 200)));
  return path.string();
}

Result<int> run(const Context& context, const RunOptions& options, const Operands& operands) {
  launch::Spec spec = options.spec;
  spec.command = operands;
  spec.limits = UMWELT_TRY(resource_limits(options.limits));
  spec.environment = UMWELT_TRY(read_environment(options.environment));
  UMWELT_CHECK(apply_disk_options(context, options.disk, spec));
  spec.id = UMWELT_TRY(make_id());
  if (spec.name.empty()) spec.name = spec.id;
  if (spec.hostname.empty()) spec.hostname = spec.id;
  const auto outcome = launch::run(spec, context.directories, print_note);
  if (!outcome && outcome.error().code == EEXIST) {
    const auto there = launch::Store(context.directories).find(spec.name);
    return fail(0,
                fmt::format("a container named {} exists: umwelt rm {}{}, or choose another name",
                            spec.name, there && is_running(*there) ? "--force " : "", spec.name));
  }
  if (!outcome) return fail(outcome.error());
  if (!outcome->note.empty()) print_note(outcome->note);
  if (!spec.detach || outcome->exit_code != 0) return outcome->exit_code;
  // It must not run on without a name.
  if (const auto printed = print(spec.id + "\n"); !printed)
    return fail(0, fmt::format("{}; container {} was started and runs", printed.error().message(),
                               spec.name));
  return outcome->exit_code;
}

void add_filesystem_options(CLI::App& command, launch::Spec& spec, DiskOptions& disk) {
  add_parsed(
      command, "--rootfs", "DIR", parse_rootfs,
      [&spec](std::string path) { spec.rootfs = std::move(path); },
      "root filesystem (the host's, with changes that are thrown away)");
  add_disk_options(command, disk);
  const auto add_mount = [&spec](launch::Mount mount) { spec.mounts.push_back(std::move(mount)); };
  add_repeated(command, "-v,--volume", "SOURCE:TARGET[:ro]", parse_volume, add_mount,
               "mount a volume by its name, or a file or directory of the host");
  add_repeated(
      command, "--mount", "KEY=VALUE,...", parse_mount, add_mount,
      "the same as type=bind,source=,target=[,readonly] or type=tmpfs,target= or type=volume");
  add_repeated(command, "--tmpfs", "TARGET[:size=SIZE]", parse_tmpfs, add_mount,
               "mount a filesystem in memory");
  add_flag(command, "--read-only", spec.read_only, "make the root filesystem read-only");
}

void add_process_options(CLI::App& command, launch::Spec& spec) {
  add_parsed(
      command, "-w,--workdir", "DIR", parse_absolute_path,
      [&spec](std::string path) { spec.workdir = std::move(path); }, "working directory (/)");
  add_text(command, "-u,--user", "USER[:GROUP]", spec.user,
           "user, and group, of the container's passwd (root)");
  add_flag(command, "-t,--tty", spec.tty, "give it a terminal");
  add_flag(command, "-i,--interactive", spec.interactive, "pass stdin on");
  add_flag(command, "-d,--detach", spec.detach, "print its id and let it run");
  add_flag(command, "--rm", spec.remove, "remove it when it has ended");
  add_flag(command, "--init", spec.init, "an init as pid 1 that reaps and passes signals on");
}

}  // namespace

void add_run(CLI::App& app, Context& context) {
  auto options = std::make_shared<RunOptions>();
  launch::Spec& spec = options->spec;
  spec.policy.affinity_virtualised = true;
  CLI::App* command = add_command(
      app, context,
      {.name = "run",
       .summary = "Run a command in a container that sees its own limits",
       .operands = "COMMAND [ARGUMENT...]",
       .examples = kExamples,
       .min_operands = 1,
       .max_operands = kAnyNumber,
       .options_end_at_operand = true,
       .action = [&context,
                  options](const Operands& operands) { return run(context, *options, operands); },
       .failure_code = launch::kExitLauncher});
  add_parsed(
      *command, "--name", "NAME", parse_name,
      [&spec](std::string name) { spec.name = std::move(name); }, "name (its id)");
  add_limit_options(*command, options->limits);
  add_policy_options(*command, spec.policy);
  add_parsed(*command, "--intercept", "on|off", parse_on_off,
             [&spec](bool on) { spec.policy.affinity_virtualised = on; },
             "answer sysinfo, sched_getaffinity and the like as the files do; on by default",
             {.group = "View"});
  add_parsed(*command, "--views", "required|best-effort", parse_views,
             [&spec](launch::Views views) { spec.views = views; },
             "whether to start when the daemon can't be reached (required)", {.group = "View"});
  add_filesystem_options(*command, spec, options->disk);
  add_parsed(
      *command, "--hostname", "NAME", parse_hostname,
      [&spec](std::string name) { spec.hostname = std::move(name); }, "hostname (its id)");
  add_parsed(
      *command, "--network", "host|none", parse_network,
      [&spec](launch::Network network) { spec.network = network; }, "network (host)");
  add_environment_options(*command, options->environment);
  add_process_options(*command, spec);
}

}  // namespace umwelt::cli
