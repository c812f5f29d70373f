// SPDX-License-Identifier: Apache-2.0
#include "intercept/narrowed.h"

#include <fmt/format.h>

#include <optional>

#include "base/file.h"
#include "base/parse.h"
#include "container/record.h"
#include "intercept/affinity.h"
#include "intercept/task.h"

namespace umwelt::intercept {
namespace {

constexpr unsigned kMaxDepth = 64;
constexpr std::uint64_t kTickNs = 10'000'000;  // a start time is rounded down to one

std::optional<std::uint64_t> started_ns(pid_t task) {
  const auto stat = container::read_process_stat(task);
  if (!stat || stat->state == 'Z' || stat->state == 'X') return std::nullopt;
  return container::starttime_to_boottime_ns(stat->starttime);
}

// ESRCH and the like: the task has gone meanwhile.
void apply_choice(const view::Cpus& cpus, pid_t task, const CpuSet& shown) {
  const CpuSet real = real_affinity(cpus, shown);
  (void)set_affinity(task, real.empty() ? real_affinity(cpus, cpus.online) : real);
}

}  // namespace

void Narrowed::chose(pid_t task, CpuSet shown, std::uint64_t now_ns) {
  if (choices_.size() >= kMaxChoices) drop_the_dead();
  if (choices_.size() >= kMaxChoices) return;
  choices_[task] = {std::move(shown), now_ns};
}

void Narrowed::drop_the_dead() {
  std::erase_if(choices_, [](const auto& entry) {
    const auto started = started_ns(entry.first);
    return !started || *started > entry.second.chosen_ns;
  });
}

void Narrowed::apply(const view::Cpus& cpus) {
  drop_the_dead();
  for (const auto& [task, choice] : choices_) {
    apply_choice(cpus, task, choice.shown);
    apply_to_children(cpus, task, choice, 0);
  }
}

void Narrowed::apply_to_children(const view::Cpus& cpus, pid_t task, const Choice& choice,
                                 unsigned depth) {
  if (depth >= kMaxDepth) return;
  const auto text = read_file(fmt::format("/proc/{0}/task/{0}/children", task));
  if (!text) return;
  std::string_view rest = *text;
  for (auto word = next_word(rest); !word.empty(); word = next_word(rest)) {
    const auto child = static_cast<pid_t>(parse_u64(word).value_or(0));
    if (child == 0 || choices_.contains(child)) continue;
    const auto started = started_ns(child);
    if (!started || *started + kTickNs < choice.chosen_ns) continue;  // born before
    apply_choice(cpus, child, choice.shown);
    apply_to_children(cpus, child, choice, depth + 1);
  }
}

}  // namespace umwelt::intercept
