// SPDX-License-Identifier: Apache-2.0
#include "launch/cgroup_namespaces.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <iterator>

namespace umwelt::launch {
namespace {

constexpr unsigned kX32Bit = 0x40000000;                  // __X32_SYSCALL_BIT
constexpr unsigned kCloneI386 = 120, kUnshareI386 = 310;  // syscall_32.tbl
constexpr unsigned kRefuse = SECCOMP_RET_ERRNO | EPERM;
constexpr unsigned kUnknown = SECCOMP_RET_ERRNO | ENOSYS;

constexpr sock_filter load(std::size_t offset) {
  return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(offset));
}
// How many instructions further, when the number is that one and when not.
constexpr sock_filter if_equal(unsigned number, unsigned char then, unsigned char otherwise) {
  return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, then, otherwise);
}
constexpr sock_filter result(unsigned value) { return BPF_STMT(BPF_RET | BPF_K, value); }

constexpr sock_filter kProgram[] = {
    load(offsetof(seccomp_data, arch)),
    if_equal(AUDIT_ARCH_I386, 5, 0),
    load(offsetof(seccomp_data, nr)),
    BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~kX32Bit),
    if_equal(SYS_clone3, 9, 0),
    if_equal(SYS_clone, 5, 0),
    if_equal(SYS_unshare, 4, 6),
    // i386, where clone3 has the same number
    load(offsetof(seccomp_data, nr)),
    if_equal(SYS_clone3, 5, 0),
    if_equal(kCloneI386, 1, 0),
    if_equal(kUnshareI386, 0, 2),
    // The flags of clone or unshare; the lower half has them.
    load(offsetof(seccomp_data, args)),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_NEWCGROUP, 2, 0),
    result(SECCOMP_RET_ALLOW),
    result(kUnknown),
    result(kRefuse),
};

}  // namespace

Result<void> forbid_cgroup_namespaces() {
  const sock_fprog filter{std::size(kProgram), const_cast<sock_filter*>(kProgram)};
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &filter) != 0)
    return fail_errno("forbid cgroup namespaces");
  return {};
}

}  // namespace umwelt::launch
