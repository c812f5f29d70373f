// SPDX-License-Identifier: Apache-2.0
#include "vdisk/confined.h"

#include <cap-ng.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <vector>

#include "base/child_process.h"
#include "base/file.h"
#include "vdisk/mount_api.h"
#include "vdisk/tool.h"

namespace umwelt::vdisk {
namespace {

using nlohmann::json;

constexpr std::uint64_t kNamespaces =
    CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
constexpr unsigned kCapabilities[] = {CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_FOWNER,
                                      CAP_FSETID, CAP_MKNOD,        CAP_SETFCAP};
// By which a process finds the path of a descriptor; made in `directory`, which is the work's own.
constexpr const char* kLinksPath[] = {"proc", "proc/self", "proc/self/fd"};

constexpr std::size_t kMaxMessageBytes = 8U << 20;
constexpr char kResult[] = "result", kError[] = "error";

Result<UniqueFd> clone_with(int file, std::uint64_t attributes) {
  UniqueFd clone = UMWELT_TRY(clone_mount(file, ""));
  mount_attr attr{};
  attr.attr_set = attributes;
  if (::mount_setattr(clone.get(), "", AT_EMPTY_PATH, &attr, sizeof attr) != 0)
    return fail_errno("mount_setattr");
  return clone;
}

// The mount of `directory` that takes the root's place, with /proc/self/fd in it.
Result<void> change_root(int mount) {
  const UniqueFd links = UMWELT_TRY(clone_mount(AT_FDCWD, "/proc/self/fd"));
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return fail_errno("make the mounts private");
  UMWELT_CHECK(attach_mount(mount, AT_FDCWD, "/"));
  for (const char* path : kLinksPath)
    if (::mkdirat(mount, path, 0755) != 0 && errno != EEXIST) return fail_errno("mkdir");
  UMWELT_CHECK(attach_mount(links.get(), mount, kLinksPath[std::size(kLinksPath) - 1]));
  if (::fchdir(mount) != 0 || ::chroot(".") != 0) return fail_errno("chroot");
  return {};
}

// libcap-ng looks into /proc for what the kernel has.
std::vector<unsigned> kept_capabilities() {
  capng_get_caps_process();
  std::vector<unsigned> kept;
  for (const unsigned capability : kCapabilities)
    if (capng_have_capability(CAPNG_PERMITTED, capability)) kept.push_back(capability);
  return kept;
}

Result<void> drop_capabilities(const std::vector<unsigned>& kept) {
  capng_clear(CAPNG_SELECT_BOTH);
  for (const unsigned capability : kept)
    capng_update(CAPNG_ADD, static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED),
                 capability);
  if (capng_apply(CAPNG_SELECT_CAPS) != 0) return fail_errno("drop capabilities");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail_errno("no_new_privs");
  return {};
}

// Through a read-only mount of its own a file can't be changed, nor opened anew for writing by way
// of /proc/self/fd.
Result<UniqueFd> clone_source(int source, mode_t mode) {
  auto clone = clone_with(source, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
  if (!clone && clone.error().code == EINVAL)
    return fail(0, "it lies on a mount of another namespace: pipe it in");
  if (!clone || S_ISDIR(mode)) return clone;
  UniqueFd file = UMWELT_TRY(open_at(AT_FDCWD, path_of(clone->get()), O_RDONLY));
  // Of standard input something may have been read.
  if (::lseek(file.get(), ::lseek(source, 0, SEEK_CUR), SEEK_SET) < 0) return fail_errno("lseek");
  return file;
}

// Descriptors of mounts in no namespace, so that there is nothing above them.
struct Reach {
  UniqueFd directory, source;  // the latter: not of a pipe
};
Result<Reach> clone_reach(int directory, int source) {
  Reach reach;
  reach.directory =
      UMWELT_TRY(clone_with(directory, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  struct stat status {};
  if (::fstat(source, &status) != 0) return fail_errno("fstat the source");
  if (S_ISDIR(status.st_mode) || S_ISREG(status.st_mode))
    reach.source = UMWELT_TRY(clone_source(source, status.st_mode));
  return reach;
}

Result<json> work_confined(const Confined& confined, int pipe, const ConfinedWork& work) {
  ::setsid();  // no terminal to type into
  const std::vector<int> ours = {confined.directory, confined.source, pipe};
  // Where stderr was closed, one of ours may have its number.
  if (std::find(ours.begin(), ours.end(), STDERR_FILENO) == ours.end()) {
    const int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null < 0 || ::dup2(null, STDERR_FILENO) < 0) return fail_errno("open /dev/null");
  }
  const std::vector<unsigned> capabilities = kept_capabilities();
  UMWELT_CHECK(change_root(confined.directory));
  UMWELT_CHECK(drop_capabilities(capabilities));
  UMWELT_CHECK(die_with_parent(true));
  std::vector<int> kept = {STDERR_FILENO};
  kept.insert(kept.end(), ours.begin(), ours.end());
  close_all_but(kept);
  return work(confined);
}

void send(int pipe, const json& message) {
  // Names in archives are any bytes.
  const std::string line = message.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  if (!write_all(pipe, line, "tell")) ::_exit(1);  // nobody listens any more
}

[[noreturn]] void run_child(Confined confined, int pipe, const ConfinedWork& work) {
  confined.tell = [pipe](const json& message) { send(pipe, message); };
  auto result = work_confined(confined, pipe, work);
  if (result)
    send(pipe, {{kResult, *std::move(result)}});
  else
    send(pipe, {{kError, {{"code", result.error().code}, {"text", result.error().text}}}});
  ::_exit(0);
}

// What came from the child may come from whoever has taken it over.
Result<json> parse_result(const json& message) {
  if (message.contains(kResult)) return message.at(kResult);
  const json& error = message.at(kError);
  if (!error.is_object() || !error.value("code", json()).is_number_integer() ||
      !error.value("text", json()).is_string())
    return fail(EBADMSG, "read the result");
  return fail(error.at("code").get<int>(), error.at("text").get<std::string>());
}

// Until the child has closed its end.
Result<json> listen(int pipe, const std::function<void(const json&)>& told) {
  Result<json> result = fail(ENODATA, "");
  std::string pending;
  std::vector<char> buffer(64U << 10);
  for (;;) {
    const ssize_t n = ::read(pipe, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read from a process");
    if (n == 0) return result;
    pending.append(buffer.data(), static_cast<std::size_t>(n));
    std::size_t begin = 0;
    for (std::size_t end; (end = pending.find('\n', begin)) != std::string::npos; begin = end + 1) {
      const json message =
          json::parse(pending.begin() + static_cast<std::ptrdiff_t>(begin),
                      pending.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
      if (!message.is_object()) return fail(EBADMSG, "read from a process");
      if (message.contains(kResult) || message.contains(kError))
        result = parse_result(message);
      else if (told)
        told(message);
    }
    pending.erase(0, begin);
    if (pending.size() > kMaxMessageBytes) return fail(EMSGSIZE, "read from a process");
  }
}

}  // namespace

Result<json> run_confined(int directory, int source, const ConfinedWork& work,
                          const std::function<void(const json&)>& told) {
  const Reach reach = UMWELT_TRY(clone_reach(directory, source));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  UniqueFd reading(ends[0]), writing(ends[1]);
  const auto child = UMWELT_TRY(clone_child(kNamespaces));
  if (!child)
    run_child({reach.directory.get(), reach.source ? reach.source.get() : source, {}},
              writing.get(), work);
  writing.reset();
  auto result = listen(reading.get(), told);
  ::syscall(SYS_pidfd_send_signal, child->pidfd.get(), SIGKILL, nullptr, 0);
  const int code = UMWELT_TRY(wait_exit_code(child->pidfd.get()));
  if (!result && result.error().code == ENODATA)
    return fail(0, fmt::format("the process that did it ended with {} before it was ready", code));
  return result;
}

}  // namespace umwelt::vdisk
