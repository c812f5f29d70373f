// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>

#include "base/cpu_set.h"
#include "view/resources.h"

namespace umwelt::intercept {

// Which tasks of a container chose their CPUs, by shown numbers. The kernel keeps the choice in the
// host's numbers, which a change of the container's cpuset makes meaningless: apply() says it
// again. Not thread-safe.
class Narrowed {
 public:
  // `task` chose `shown` at `now_ns` (CLOCK_BOOTTIME).
  void chose(pid_t task, CpuSet shown, std::uint64_t now_ns);

  // For those that live, and children that inherited the choice. Where none of the chosen CPUs is
  // shown any more a task may use all, as when the kernel loses a CPU.
  void apply(const view::Cpus& cpus);

  std::size_t size() const { return choices_.size(); }
  static constexpr std::size_t kMaxChoices = 65536;

 private:
  struct Choice {
    CpuSet shown;
    std::uint64_t chosen_ns = 0;
  };
  void apply_to_children(const view::Cpus& cpus, pid_t task, const Choice& choice, unsigned depth);
  void drop_the_dead();
  std::map<pid_t, Choice> choices_;  // by thread id; one whose task is younger is another task's
};

}  // namespace umwelt::intercept
