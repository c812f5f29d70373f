// SPDX-License-Identifier: Apache-2.0
#include "launch/inside.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <future>
#include <system_error>
#include <thread>

#include "base/file.h"
#include "launch/mounts.h"

namespace umwelt::launch {
namespace {

Result<bool> is_own_namespace(int mount_namespace) {
  struct stat theirs {
  }, ours{};
  if (::fstat(mount_namespace, &theirs) != 0 || ::stat("/proc/self/ns/mnt", &ours) != 0)
    return fail_errno("compare mount namespaces");
  return theirs.st_ino == ours.st_ino;
}

// The calling thread shares nothing but memory with its process any more: what waits for the end of
// a descriptor need not wait for a thread that hangs. A working directory of its own is also the
// condition for entering a mount namespace.
Result<void> part_from_process() {
  if (::unshare(CLONE_FS | CLONE_FILES) != 0) return fail_errno("unshare the working directory");
  const int null = UMWELT_TRY(open_at(AT_FDCWD, "/dev/null", O_RDWR)).release();
  for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::dup2(null, standard) < 0) return fail_errno("leave the standard descriptors");
  ::syscall(SYS_close_range, STDERR_FILENO + 1U, ~0U, 0U);
  return {};
}

}  // namespace

Result<void> in_thread(std::chrono::milliseconds patience, std::function<Result<void>()> work) {
  std::packaged_task<Result<void>()> task([work = std::move(work)]() -> Result<void> {
    UMWELT_CHECK(part_from_process());
    return work();
  });
  auto attached = task.get_future();
  std::thread thread;
  try {
    thread = std::thread(std::move(task));
  } catch (const std::system_error& error) {
    return fail(error.code().value(), "start a thread");
  }
  if (patience != kWithoutEnd && attached.wait_for(patience) != std::future_status::ready) {
    thread.detach();
    return fail(ETIMEDOUT,
                "a filesystem that is mounted in it does not answer ('umwelt daemon reattach' when "
                "it does)");
  }
  thread.join();
  return attached.get();
}

Result<Inside> open_inside(pid_t process) {
  const std::string proc = "/proc/" + std::to_string(process) + "/";
  Inside inside;
  inside.mount_namespace = UMWELT_TRY(open_at(AT_FDCWD, proc + "ns/mnt", O_RDONLY));
  inside.root = UMWELT_TRY(open_at(AT_FDCWD, proc + "root", O_PATH | O_DIRECTORY));
  if (UMWELT_TRY(is_own_namespace(inside.mount_namespace.get())))
    return fail(EINVAL, "process " + std::to_string(process) +
                            " has no mount namespace of its own: it is in no container");
  return inside;
}

Result<void> enter(const Inside& inside) {
  if (::setns(inside.mount_namespace.get(), CLONE_NEWNS) != 0)
    return fail_errno("enter the container's mount namespace");
  return {};
}

Result<struct statx> stat_cached(int fd) {
  struct statx status {};
  if (::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO | STATX_MNT_ID,
              &status) != 0)
    return fail_errno("statx");
  return status;
}

bool is_dead(int fd) {
  struct statfs status {};
  return ::fstatfs(fd, &status) != 0 && errno == ENOTCONN;
}

Result<void> detach(int parent, const std::string& name) {
  if (::fchdir(parent) != 0 || ::umount2(name.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0)
    return fail_errno("unmount what a dead daemon left on " + name);
  return {};
}

Result<void> replace(int parent, const std::string& name, int mount) {
  const UniqueFd old = UMWELT_TRY(open_plain(parent, name, O_PATH));
  const auto beneath = attach_mount_beneath(mount, old.get());
  UMWELT_CHECK(detach(parent, name));
  if (beneath) return {};
  return attach_mount(mount, UMWELT_TRY(open_plain(parent, name, O_PATH)).get());
}

}  // namespace umwelt::launch
