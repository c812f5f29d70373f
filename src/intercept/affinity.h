// SPDX-License-Identifier: Apache-2.0
// CPU affinity as a kernel that has the container's CPUs alone would see it, and what that is on
// the host. Pure. "Shown" are the container's numbers, "real" the host's.
//
// What the program may use is kept in the real mask alone: a task that may use every CPU of the
// container's cpuset is shown all CPUs, also where a quota shows fewer than the cpuset has, and the
// scheduler keeps its freedom; a task that narrowed its mask has the CPUs behind the shown ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/cpu_set.h"
#include "intercept/request.h"
#include "view/resources.h"

namespace umwelt::intercept {

// What that kernel knows of the length of its masks.
struct MaskSize {
  unsigned nr_cpu_ids = 1;  // one more than the highest possible CPU
  std::size_t bytes = 8;    // cpumask_size()
};
// `host_bytes` is what the host's kernel returns for a mask: its length follows the number of CPUs
// if the kernel was built for many (CONFIG_CPUMASK_OFFSTACK), and is the same always otherwise.
MaskSize mask_size(const view::Cpus& cpus, const CpuSet& host_possible, std::size_t host_bytes);

// How many bytes sched_getaffinity(2) writes, which is also what it returns; nullopt: EINVAL.
std::optional<std::size_t> getaffinity_bytes(const MaskSize& size, std::uint32_t length,
                                             Layout layout);
// How many bytes sched_setaffinity(2) reads.
std::size_t setaffinity_bytes(const MaskSize& size, std::uint32_t length, Layout layout);

// All CPUs there are, which the kernel cuts down to the cpuset, now and whenever that changes.
const CpuSet& every_cpu();

// A task's shown mask. One of which no CPU is shown any more has become all of them, as when the
// kernel loses a CPU.
CpuSet shown_affinity(const view::Cpus& cpus, const CpuSet& real);

// The real mask for what a task asks for; empty: EINVAL. All CPUs of the container become all CPUs
// there are.
CpuSet real_affinity(const view::Cpus& cpus, const CpuSet& asked);

// The shown number of the CPU that a task with this real mask runs on.
unsigned shown_cpu(const view::Cpus& cpus, const CpuSet& real, unsigned physical);

// The kernel's bitmaps: little endian.
CpuSet cpus_from_bytes(std::string_view bytes);
std::string cpus_to_bytes(const CpuSet& cpus, std::size_t bytes);

}  // namespace umwelt::intercept
