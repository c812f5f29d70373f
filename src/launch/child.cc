// SPDX-License-Identifier: Apache-2.0
#include "launch/child.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/child_process.h"
#include "base/file.h"
#include "intercept/filter.h"
#include "launch/cgroup.h"
#include "launch/cgroup_namespaces.h"
#include "launch/filesystems.h"
#include "launch/init.h"
#include "launch/mounts.h"
#include "launch/name_files.h"
#include "launch/namespaces.h"
#include "launch/process.h"
#include "launch/rootfs.h"
#include "launch/terminal.h"
#include "launch/views.h"

namespace umwelt::launch {
namespace {

// What a new process in a container becomes, the same for run and exec.
struct Command {
  const std::vector<std::string>& command;
  const std::vector<std::string>& environment;
  const std::string& workdir;
  const std::string& user;
  const std::string& hostname;
  bool tty = false, interactive = false, init = false, console = false, intercept = false;
  bool outlives_launcher = false;
};

// Nobody in the container can look into this process, which holds the host's descriptors, until
// it is the command.
Result<void> begin() {
  UMWELT_CHECK(die_with_parent(true));
  if (::prctl(PR_SET_DUMPABLE, 0) != 0) return fail_errno("prctl");
  if (::setsid() < 0) return fail_errno("make a session");
  return {};
}

Result<void> redirect(int from, int to) {
  if (::dup2(from, to) < 0) return fail_errno("redirect a stream");
  return {};
}

Result<void> use_output(const Output& output) {
  if (output.out) UMWELT_CHECK(redirect(output.out.get(), STDOUT_FILENO));
  if (output.err) UMWELT_CHECK(redirect(output.err.get(), STDERR_FILENO));
  return {};
}

Result<void> connect_to_null(int root, std::initializer_list<int> streams) {
  const UniqueFd null = UMWELT_TRY(open_plain(root, "dev/null", O_RDWR));
  for (const int stream : streams) UMWELT_CHECK(redirect(null.get(), stream));
  return {};
}

Result<void> mount_console(int slave) {
  const UniqueFd root = UMWELT_TRY(open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY));
  const UniqueFd target = UMWELT_TRY(open_target(root.get(), "/dev/console", TargetKind::kFile));
  const UniqueFd mount = UMWELT_TRY(clone_mount(slave, "", false));
  return attach_mount(mount.get(), target.get());
}

Result<void> set_up_terminal(Channel& channel, const User& user, bool console) {
  const Terminal terminal = UMWELT_TRY(open_terminal(user.uid));
  if (console) UMWELT_CHECK(mount_console(terminal.slave.get()));
  copy_window_size(terminal.master.get());  // the command may ask for it at once
  UMWELT_CHECK(channel.send_descriptor(Passed::kTerminal, terminal.master.get()));
  return use_terminal(terminal.slave.get());
}

// A program opens its pipes once more by /dev/stdout and the like, where logs are told to go: that
// asks for permission, which root always has. Only pipes without a name are given away, so no file
// of the host's is. One from outside of this user namespace can't be, and is used as it is.
void give_pipes(uid_t owner) {
  if (owner == 0) return;
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    struct statfs filesystem {};
    if (::fstatfs(stream, &filesystem) == 0 && filesystem.f_type == PIPEFS_MAGIC)
      (void)::fchown(stream, owner, static_cast<gid_t>(-1));
  }
}

// The last step: from here on this process, too, would wait for an answer.
Result<void> intercept_syscalls(Channel& channel) {
  const auto listener = intercept::install_filter();
  if (!listener)
    return fail(listener.error().code,
                listener.error().text + " (--intercept off does without it)");
  return channel.send_descriptor(Passed::kListener, listener->get());
}

Result<User> settle(const Command& command, Channel& channel) {
  const UniqueFd root = UMWELT_TRY(open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY));
  User user = UMWELT_TRY(read_user(root.get(), command.user));
  if (command.tty)
    UMWELT_CHECK(set_up_terminal(channel, user, command.console));
  else if (command.outlives_launcher)
    UMWELT_CHECK(connect_to_null(root.get(), {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}));
  else if (!command.interactive)
    UMWELT_CHECK(connect_to_null(root.get(), {STDIN_FILENO}));
  give_pipes(user.uid);
  UMWELT_CHECK(enter_workdir(command.workdir));
  UMWELT_CHECK(drop_privileges(user));
  UMWELT_CHECK(forbid_cgroup_namespaces());
  UMWELT_CHECK(die_with_parent(!command.outlives_launcher));
  if (channel.abandoned()) return fail(ECANCELED, "wait for the launcher");
  if (command.init) UMWELT_CHECK(split_off_init(command.tty));
  reset_process();
  if (command.intercept) UMWELT_CHECK(intercept_syscalls(channel));
  return user;
}

[[noreturn]] void give_up(Channel& channel, Stage stage, Error error) {
  channel.send_error({stage, std::move(error)});
  ::_exit(kExitLauncher);
}

[[noreturn]] void become(const Command& command, Channel& channel) {
  const auto user = settle(command, channel);
  if (!user) give_up(channel, Stage::kLauncher, user.error());
  give_up(channel, Stage::kExec,
          execute(command.command, make_environment(command.environment, command.hostname,
                                                    user->home, command.tty)));
}

Result<void> enter_cgroups(const Spec& spec, int root) {
  const std::string own = UMWELT_TRY(read_file("/proc/self/cgroup"));
  if (::unshare(CLONE_NEWCGROUP) != 0) return fail_errno("make a cgroup namespace");
  return mount_cgroups(root, parse_cgroup_mounts(own, "/" + cgroup_name(spec.id)));
}

// Meanwhile the launcher makes its cgroups and tells the daemon of it.
Result<void> build(const Spec& spec, const container::Directories& directories,
                   const CgroupDirectories& cgroups, const std::string& staging, Storage& storage,
                   Channel& channel) {
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return fail_errno("make the mounts private");
  if (spec.network == Network::kNone) UMWELT_CHECK(raise_loopback());
  if (::sethostname(spec.hostname.c_str(), spec.hostname.size()) != 0)
    return fail_errno("set the hostname");

  const UniqueFd names = UMWELT_TRY(make_name_files(spec, staging));
  const Rootfs rootfs = UMWELT_TRY(open_rootfs(spec, staging, storage.root()));
  const int root = rootfs.root.get();
  UMWELT_CHECK(mount_filesystems(root, spec.limits.memory_bytes));
  UMWELT_CHECK(mount_name_files(root, names.get(), storage.root() >= 0 || spec.rootfs.empty(),
                                spec.read_only));
  UMWELT_CHECK(mount_volumes(root, spec, storage));
  storage.close();
  if (spec.rootfs.empty() && spec.image.empty()) {
    // Of the host's own root: what belongs to other containers.
    UMWELT_CHECK(cover_directory(root, directories.runtime));
    UMWELT_CHECK(cover_directory(root, directories.state));
  }
  UMWELT_CHECK(channel.wait_signal());  // the cgroups are there, and the daemon knows of it
  UMWELT_CHECK(enter_v1_cgroups(cgroups));
  UMWELT_CHECK(enter_cgroups(spec, root));
  const bool views = spec.views != Views::kNone;
  if (views) UMWELT_CHECK(mount_views(root, rootfs.proc.get(), views_of(spec.id, directories)));
  UMWELT_CHECK(hide_paths(root, views));
  if (spec.read_only) UMWELT_CHECK(restrict_mount(root, MOUNT_ATTR_RDONLY, false));
  return pivot_into(root);
}

}  // namespace

void run_container(const Spec& spec, const container::Directories& directories,
                   const CgroupDirectories& cgroups, const std::string& staging, Storage& storage,
                   Channel channel, Output output) {
  auto built = begin();
  if (built) built = use_output(output);
  if (built) built = build(spec, directories, cgroups, staging, storage, channel);
  if (!built) give_up(channel, Stage::kLauncher, built.error());
  become({.command = spec.command,
          .environment = spec.environment,
          .workdir = spec.workdir,
          .user = spec.user,
          .hostname = spec.hostname,
          .tty = spec.tty,
          .interactive = spec.interactive,
          .init = spec.init,
          .console = true,
          .intercept = spec.policy.affinity_virtualised,
          .outlives_launcher = false},
         channel);
}

void run_in_container(const ExecRequest& request, const std::string& hostname, int init,
                      const CgroupDirectories& cgroups, bool born_there, Channel channel) {
  auto entered = begin();
  if (entered && !born_there) entered = enter_v2_cgroup(cgroups);
  if (entered) entered = enter_v1_cgroups(cgroups);
  if (entered)
    entered = join_namespaces(
        init, CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP);
  if (!entered) give_up(channel, Stage::kLauncher, entered.error());
  become({.command = request.command,
          .environment = request.environment,
          .workdir = request.workdir,
          .user = request.user,
          .hostname = hostname,
          .tty = request.tty,
          .interactive = request.interactive,
          .init = false,
          .console = false,
          .intercept = request.intercept,
          .outlives_launcher = request.detach},
         channel);
}

}  // namespace umwelt::launch
