// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/seccomp.h>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::intercept {

// Shared memory that the kernel copies the notifications of one listener into, one after the other,
// and that outlives the process which received them: one that was received is never sent again, so
// whoever goes on with the listener answers what is still in here first. Used by one process at a
// time, by one thread of it.
class Notice {
 public:
  // A memfd.
  static Result<UniqueFd> create();
  // EINVAL when it was not made by create().
  static Result<Notice> map(int fd);
  Notice(Notice&& other) noexcept;
  Notice& operator=(Notice&& other) noexcept;
  ~Notice();

  // SECCOMP_IOCTL_NOTIF_RECV: waits for the next notification. EINTR; ENOENT when the caller died
  // meanwhile, or there is nobody left who could call. What was in here before is answered.
  Result<void> receive(int listener);

  // What was received and not answered yet; its id is 0 when there is nothing.
  const seccomp_notif& notification() const { return *static_cast<seccomp_notif*>(memory_); }

  // SECCOMP_IOCTL_NOTIF_SEND: after it nothing is left. A caller that has died is no error.
  Result<void> answer(int listener, const seccomp_notif_resp& response);

 private:
  explicit Notice(void* memory) : memory_(memory) {}
  void clear();
  void* memory_;
};

// Whether its caller still waits for the answer (and its thread id therefore is its own).
bool is_waiting(int listener, std::uint64_t id);
// Whether nobody is left who could call.
bool is_abandoned(int listener);

}  // namespace umwelt::intercept
