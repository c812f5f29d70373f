// SPDX-License-Identifier: Apache-2.0
#include "intercept/filter.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "intercept/request.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)  // Linux 5.19
#endif

namespace umwelt::intercept {
namespace {

constexpr std::uint32_t kArchitectures[] = {SCMP_ARCH_X86_64, SCMP_ARCH_X86, SCMP_ARCH_X32};

using Context = std::unique_ptr<void, decltype(&seccomp_release)>;

// libseccomp returns negative errno values.
Result<void> checked(int code, const char* what) {
  if (code < 0) return fail(-code, std::string("seccomp filter: ") + what);
  return {};
}

Result<Context> make_filter() {
  Context context(seccomp_init(SCMP_ACT_ALLOW), &seccomp_release);
  if (!context) return fail(ENOMEM, "seccomp filter");
  UMWELT_CHECK(checked(seccomp_attr_set(context.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ALLOW),
                       "architectures"));
  for (const std::uint32_t arch : kArchitectures) {
    const int code = seccomp_arch_add(context.get(), arch);
    if (code != -EEXIST) UMWELT_CHECK(checked(code, "architectures"));
  }
  for (const char* name : call_names()) {
    const int number = seccomp_syscall_resolve_name(name);
    UMWELT_CHECK(checked(seccomp_rule_add(context.get(), SCMP_ACT_NOTIFY, number, 0), name));
  }
  return context;
}

// Not seccomp_load(): it does not know SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV.
Result<std::vector<sock_filter>> instructions(scmp_filter_ctx context) {
  const UniqueFd file(::memfd_create("filter", MFD_CLOEXEC));
  if (!file) return fail_errno("memfd_create");
  UMWELT_CHECK(checked(seccomp_export_bpf(context, file.get()), "export"));
  std::string buffer;
  const std::string_view bytes = UMWELT_TRY(pread_all(file.get(), buffer));
  std::vector<sock_filter> program(bytes.size() / sizeof(sock_filter));
  bytes.copy(reinterpret_cast<char*>(program.data()), program.size() * sizeof(sock_filter));
  return program;
}

}  // namespace

Result<UniqueFd> install_filter() {
  const Context context = UMWELT_TRY(make_filter());
  std::vector<sock_filter> program = UMWELT_TRY(instructions(context.get()));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  constexpr unsigned long kFlags =
      SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
  for (const unsigned long flags : {kFlags | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, kFlags}) {
    UniqueFd listener(
        static_cast<int>(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter)));
    if (listener) return listener;
    if (errno != EINVAL) break;
  }
  return fail_errno("install the seccomp filter");
}

}  // namespace umwelt::intercept
