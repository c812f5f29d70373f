// SPDX-License-Identifier: Apache-2.0
#include "intercept/notice.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <utility>

namespace umwelt::intercept {
namespace {

constexpr std::size_t kBytes = 4096;
// The kernel wants zeros where it writes; a later one's structure may be longer.
constexpr std::size_t kNotificationBytes = 512;
static_assert(sizeof(seccomp_notif) <= kNotificationBytes);
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

}  // namespace

Result<UniqueFd> Notice::create() {
  UniqueFd fd(::memfd_create("umwelt-notice", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return fail_errno("memfd_create");
  if (::ftruncate(fd.get(), kBytes) != 0 || ::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0)
    return fail_errno("make shared memory");
  return fd;
}

Result<Notice> Notice::map(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return fail_errno("fstat");
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (status.st_size != static_cast<off_t>(kBytes) || seals < 0 || (seals & kSeals) != kSeals)
    return fail(EINVAL, "the shared memory of a seccomp listener");
  void* memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return fail_errno("mmap");
  return Notice(memory);
}

Notice::Notice(Notice&& other) noexcept : memory_(std::exchange(other.memory_, nullptr)) {}

Notice& Notice::operator=(Notice&& other) noexcept {
  std::swap(memory_, other.memory_);
  return *this;
}

Notice::~Notice() {
  if (memory_ != nullptr) ::munmap(memory_, kBytes);
}

void Notice::clear() { std::memset(memory_, 0, kNotificationBytes); }

Result<void> Notice::receive(int listener) {
  clear();
  if (::ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, memory_) == 0) return {};
  const int code = errno;
  clear();
  return fail(code, "receive from a seccomp listener");
}

Result<void> Notice::answer(int listener, const seccomp_notif_resp& response) {
  seccomp_notif_resp copy = response;
  const int code = ::ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &copy) == 0 ? 0 : errno;
  clear();
  if (code != 0 && code != ENOENT) return fail(code, "answer a seccomp listener");
  return {};
}

bool is_waiting(int listener, std::uint64_t id) {
  return ::ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

bool is_abandoned(int listener) {
  pollfd state{listener, 0, 0};
  return ::poll(&state, 1, 0) > 0 && (state.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
}

}  // namespace umwelt::intercept
