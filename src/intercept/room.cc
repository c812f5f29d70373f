// SPDX-License-Identifier: Apache-2.0
#include "intercept/room.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <string>

#include "base/child_process.h"

namespace umwelt::intercept {
namespace {

constexpr std::chrono::seconds kPatience{2};

Result<std::string> install_one() {
  sock_filter allow{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
  const sock_fprog filter{1, &allow};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail_errno("prctl");
  const long listener =
      ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
  if (listener >= 0) return std::string();
  if (errno == EBUSY)
    return fail(0, "the kernel allows one seccomp listener, and there is one already, further out");
  return fail_errno("install a seccomp filter that has a listener");
}

}  // namespace

Result<void> check_room_for_listener() {
  if (::prctl(PR_GET_SECCOMP) > 0) UMWELT_TRY(run_apart(install_one, kPatience));
  return {};
}

}  // namespace umwelt::intercept
