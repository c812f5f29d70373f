// SPDX-License-Identifier: Apache-2.0
#include "launch/process.h"

#include <cap-ng.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <linux/keyctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "base/file.h"
#include "launch/mounts.h"

namespace umwelt::launch {
namespace {

constexpr const char* kDefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// docker's default set.
constexpr unsigned kCapabilities[] = {
    CAP_CHOWN,   CAP_DAC_OVERRIDE, CAP_FSETID,           CAP_FOWNER,
    CAP_MKNOD,   CAP_NET_RAW,      CAP_SETGID,           CAP_SETUID,
    CAP_SETFCAP, CAP_SETPCAP,      CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT,
    CAP_KILL,    CAP_AUDIT_WRITE};

std::string_view key_of(std::string_view assignment) {
  return assignment.substr(0, assignment.find('='));
}

void set_variable(std::vector<std::string>& environment, const std::string& assignment) {
  for (std::string& existing : environment) {
    if (key_of(existing) != key_of(assignment)) continue;
    existing = assignment;
    return;
  }
  environment.push_back(assignment);
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (const std::string& string : strings) out.push_back(const_cast<char*>(string.c_str()));
  out.push_back(nullptr);
  return out;
}

std::string search_path(const std::vector<std::string>& environment) {
  for (const std::string& assignment : environment)
    if (key_of(assignment) == "PATH") return assignment.substr(5);
  return kDefaultPath;
}

}  // namespace

std::vector<std::string> make_environment(const std::vector<std::string>& given,
                                          const std::string& hostname, const std::string& home,
                                          bool tty) {
  std::vector<std::string> environment = {std::string("PATH=") + kDefaultPath,
                                          "HOSTNAME=" + hostname, "HOME=" + home};
  if (tty) environment.emplace_back("TERM=xterm");
  for (const std::string& assignment : given) set_variable(environment, assignment);
  return environment;
}

Result<void> enter_workdir(const std::string& workdir) {
  const std::string path = workdir.empty() ? "/" : workdir;
  const UniqueFd root = UMWELT_TRY(open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY));
  auto directory = open_target(root.get(), path, TargetKind::kDirectory);
  if (!directory) return fail(directory.error().code, "--workdir " + path);
  if (::fchdir(directory->get()) != 0) return fail_errno("--workdir " + path);
  return {};
}

Result<void> drop_privileges(const User& user) {
  // What this process lacks itself is not asked for.
  capng_get_caps_process();
  std::vector<unsigned> granted;
  for (const unsigned capability : kCapabilities)
    if (capng_have_capability(CAPNG_PERMITTED, capability)) granted.push_back(capability);
  capng_clear(CAPNG_SELECT_BOTH);
  for (const unsigned capability : granted)
    capng_update(CAPNG_ADD,
                 static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET),
                 capability);
  if (capng_apply(CAPNG_SELECT_BOUNDS) != 0) return fail_errno("drop capabilities");
  if (::setgroups(user.groups.size(), user.groups.data()) != 0) return fail_errno("setgroups");
  if (::setresgid(user.gid, user.gid, user.gid) != 0) return fail_errno("setgid");
  if (::setresuid(user.uid, user.uid, user.uid) != 0) return fail_errno("setuid");
  if (user.uid != 0) capng_clear(CAPNG_SELECT_CAPS);
  if (capng_apply(CAPNG_SELECT_CAPS) != 0) return fail_errno("drop capabilities");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail_errno("no_new_privs");
  return {};
}

void reset_process() {
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::umask(022);
  ::syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr);
  ::close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
}

Error execute(const std::vector<std::string>& command,
              const std::vector<std::string>& environment) {
  const std::vector<char*> arguments = pointers(command), variables = pointers(environment);
  const std::string& name = command.front();
  if (name.find('/') != std::string::npos) {
    ::execve(name.c_str(), arguments.data(), variables.data());
    return Error{errno, name};
  }
  int code = ENOENT;
  const std::string path = search_path(environment);
  for (std::size_t begin = 0; !name.empty() && begin <= path.size();) {
    const std::size_t end = std::min(path.find(':', begin), path.size());
    const std::string directory = path.substr(begin, end - begin);
    begin = end + 1;
    ::execve((directory.empty() ? name : directory + "/" + name).c_str(), arguments.data(),
             variables.data());
    // As execvp(3): what can't be executed is remembered, what is not there is passed over.
    if (errno != ENOENT && errno != ENOTDIR) {
      code = errno;
      if (code != EACCES) break;
    }
  }
  if (code == ENOENT) return Error{ENOENT, name + ": not found in the container's PATH " + path};
  return Error{code, name};
}

}  // namespace umwelt::launch
