// SPDX-License-Identifier: Apache-2.0
// The syscalls that are answered for a container, as the kernel describes them to a seccomp
// listener (seccomp_unotify(2)). Pure. x86-64 with its i386 and x32 ABIs.
#pragma once

#include <linux/seccomp.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>

namespace umwelt::intercept {

enum class Call { kSysinfo, kSchedGetaffinity, kSchedSetaffinity, kGetcpu };

// How the caller lays out its memory: i386 differs, x32 does not (arch/x86/entry/syscalls).
enum class Layout { k64, k32 };

struct Request {
  Call call = Call::kSysinfo;
  Layout layout = Layout::k64;
  std::uint64_t id = 0;  // of the notification
  pid_t caller = 0;      // thread id in the reader's pid namespace; 0: not visible there
  std::uint64_t args[6] = {};

  // Arguments of type int and unsigned: the upper half of a register means nothing.
  pid_t pid_argument(unsigned n) const { return static_cast<pid_t>(args[n]); }
  std::uint32_t u32_argument(unsigned n) const { return static_cast<std::uint32_t>(args[n]); }
};

// nullopt: not one of them.
std::optional<Request> decode(const seccomp_notif& notification);

// The names of all of them.
std::span<const char* const> call_names();

}  // namespace umwelt::intercept
