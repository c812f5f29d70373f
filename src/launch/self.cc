// SPDX-License-Identifier: Apache-2.0
#include "launch/self.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include <climits>
#include <string>

namespace umwelt::launch {
namespace {

constexpr char kSelf[] = "/proc/self/exe";

int g_error = 0;  // of what comes before libc

// --- Before libc ---------------------------------------------------------------------------------
//
// The program starts at umwelt_start (meson.build), not at libc's _start, which follows. What a
// start costs (relocations, libc, all constructors), `run` and `exec` spend once then, not twice.
// Nothing of libc works here, not even memcmp(3), and no instrumentation.
#define UMWELT_BEFORE_LIBC                                           \
  __attribute__((no_stack_protector, no_profile_instrument_function, \
                 no_sanitize("address", "undefined", "thread")))
#define UMWELT_INLINE UMWELT_BEFORE_LIBC __attribute__((always_inline)) inline

UMWELT_INLINE long call(long number, long a, long b, long c, long d, long e) {
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  long result;
  asm volatile("syscall"
               : "=a"(result)
               : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
               : "rcx", "r11", "memory");
  return result;
}

UMWELT_INLINE long address(const void* pointer) { return reinterpret_cast<long>(pointer); }

UMWELT_INLINE bool is_word(const char* text, const char* word) {
  while (*word != '\0' && *text == *word) ++text, ++word;
  return *text == *word;
}

}  // namespace

// `stack` is as the kernel made it: argc, argv, environ.
extern "C" UMWELT_BEFORE_LIBC __attribute__((used)) void umwelt_protect(long* stack) {
  const long argc = stack[0];
  char** argv = reinterpret_cast<char**>(stack + 1);
  bool launches = false;  // global options may come before the command
  for (long i = 1; i < argc; ++i)
    launches = launches || is_word(argv[i], "run") || is_word(argv[i], "exec");
  if (!launches) return;
  struct statfs status;
  long result = call(SYS_statfs, address(kSelf), address(&status), 0, 0, 0);
  if (result == 0 && (status.f_flags & ST_RDONLY) != 0) return;

  long program = -1;
  if (result == 0)
    result = program =
        call(SYS_open_tree, AT_FDCWD, address(kSelf), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, 0, 0);
  if (result >= 0) {
    struct mount_attr attributes;
    attributes.attr_set = MOUNT_ATTR_RDONLY;
    attributes.attr_clr = attributes.userns_fd = 0;
    attributes.propagation = MS_PRIVATE;
    result = call(SYS_mount_setattr, program, address(""), AT_EMPTY_PATH, address(&attributes),
                  sizeof attributes);
  }
  if (result == 0) {
    // Its own path, which cannot be found out any more then.
    char name[PATH_MAX];
    char* const called = argv[0];
    const long length = call(SYS_readlink, address(kSelf), address(name), sizeof name - 1, 0, 0);
    if (length > 0) {
      name[length] = '\0';
      argv[0] = name;
    }
    result = call(SYS_execveat, program, address(""), address(argv), address(argv + argc + 1),
                  AT_EMPTY_PATH);
    argv[0] = called;
  }
  if (program >= 0) call(SYS_close, program, 0, 0, 0, 0);
  g_error = static_cast<int>(-result);
}

asm(R"(
  .text
  .globl umwelt_start
  .type umwelt_start, @function
umwelt_start:
  endbr64
  mov %rsp, %rbx
  mov %rdx, %r12
  mov %rsp, %rdi
  and $-16, %rsp
  call umwelt_protect
  mov %rbx, %rsp
  mov %r12, %rdx
  jmp _start
  .size umwelt_start, . - umwelt_start
)");

// -------------------------------------------------------------------------------------------------

Result<void> check_protection() {
  struct statvfs status {};
  if (::statvfs(kSelf, &status) != 0 || (status.f_flag & ST_RDONLY) == 0) {
    const std::string what = "execute the launcher from a read-only mount";
    if (g_error == EPERM) return fail(0, what + ": it needs CAP_SYS_ADMIN (docker: --privileged)");
    if (g_error == ENOENT) return fail(0, what + ": mount /proc first");
    return fail(g_error, what);
  }
  // Before Linux 6.14 a process that was executed by descriptor has its number for a name.
  ::prctl(PR_SET_NAME, program_invocation_short_name);
  return {};
}

}  // namespace umwelt::launch
