// SPDX-License-Identifier: Apache-2.0
#include "intercept/request.h"

#include <linux/audit.h>

#include <algorithm>

namespace umwelt::intercept {
namespace {

constexpr int kX32Bit = 0x40000000;  // __X32_SYSCALL_BIT

struct Row {
  Call call;
  int x86_64, i386;
};
// arch/x86/entry/syscalls/syscall_{64,32}.tbl
constexpr Row kRows[] = {
    {Call::kSysinfo, 99, 116},
    {Call::kSchedSetaffinity, 203, 241},
    {Call::kSchedGetaffinity, 204, 242},
    {Call::kGetcpu, 309, 318},
};
constexpr const char* kNames[] = {"sysinfo", "sched_setaffinity", "sched_getaffinity", "getcpu"};

}  // namespace

std::optional<Request> decode(const seccomp_notif& notification) {
  const seccomp_data& data = notification.data;
  if (data.arch != AUDIT_ARCH_X86_64 && data.arch != AUDIT_ARCH_I386) return std::nullopt;
  const bool i386 = data.arch == AUDIT_ARCH_I386;
  const int number = i386 ? data.nr : data.nr & ~kX32Bit;
  for (const Row& row : kRows) {
    if (number != (i386 ? row.i386 : row.x86_64)) continue;
    Request request;
    request.call = row.call;
    request.layout = i386 ? Layout::k32 : Layout::k64;
    request.id = notification.id;
    request.caller = static_cast<pid_t>(notification.pid);
    std::copy(std::begin(data.args), std::end(data.args), std::begin(request.args));
    return request;
  }
  return std::nullopt;
}

std::span<const char* const> call_names() { return kNames; }

}  // namespace umwelt::intercept
