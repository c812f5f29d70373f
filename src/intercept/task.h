// SPDX-License-Identifier: Apache-2.0
// Other tasks, as the kernel lets a program of a container see and change them: their memory, ids,
// owners, affinity. A thread id may be reused once its task is gone: what was learnt of a caller
// counts if is_waiting() says so afterwards, and nothing is written unless it says so right before.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/cpu_set.h"
#include "base/result.h"
#include "cgroup/hierarchies.h"
#include "container/record.h"

namespace umwelt::intercept {

// EFAULT where the task itself could not read or write; ESRCH. Not more than 64 KiB.
Result<std::string> read_memory(pid_t task, std::uint64_t address, std::size_t bytes);
Result<void> write_memory(pid_t task, std::uint64_t address, std::string_view bytes);

// The thread that `caller` means by `tid`, which is not 0, in the reader's pid namespace. ESRCH
// when the caller sees no such task.
Result<pid_t> find_task(pid_t caller, pid_t tid);
// The same before Linux 6.11, which translates ids: searches /proc, and there the processes that
// the caller sees.
Result<pid_t> search_task(pid_t caller, pid_t tid);

// What `viewer` calls `task`, both in the reader's pid namespace; 0: it does not see it.
Result<pid_t> id_for(pid_t viewer, pid_t task);

// The process that it is a thread of.
Result<pid_t> process_of(pid_t task);

// Whether it is in one of these cgroups, or below. False when it is gone.
bool is_in_cgroup(pid_t task, const cgroup::Paths& paths);

// Whether it is in the cgroup of the container, or in its pid namespace where that is another one
// than the reader's: cgroup v1 has what ended, and waits for its parent, in no cgroup.
bool is_of_container(pid_t task, const container::Record& record);

// Whether `caller` may change how `target` is scheduled (check_same_owner() or CAP_SYS_NICE,
// kernel/sched/syscalls.c).
bool may_schedule(pid_t caller, pid_t target);

// sched_{get,set}affinity(2) with the host's numbers and the kernel's own errors.
std::size_t affinity_bytes();  // cpumask_size() of this kernel
Result<CpuSet> get_affinity(pid_t task);
Result<void> set_affinity(pid_t task, const CpuSet& cpus);

}  // namespace umwelt::intercept
