// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <iterator>

#include "view/files.h"

namespace umwelt::view {
namespace {

constexpr std::uint64_t kNsPerTick = 10'000'000;  // USER_HZ is 100 on every supported architecture

struct Ticks {
  std::uint64_t user = 0, nice = 0, system = 0, idle = 0, steal = 0;
};

// Idle time is rounded up: a CPU with nothing but zeros, as it would be seen in a container of a
// few milliseconds, is one that is offline to mpstat.
Ticks ticks(const ShownCpuTime& time) {
  return {time.user_ns / kNsPerTick, time.nice_ns / kNsPerTick, time.system_ns / kNsPerTick,
          (time.idle_ns + kNsPerTick - 1) / kNsPerTick, time.steal_ns / kNsPerTick};
}

// Columns: user nice system idle iowait irq softirq steal guest guest_nice.
void append_columns(std::string& text, const Ticks& t) {
  fmt::format_to(std::back_inserter(text), " {} {} {} {} 0 0 0 {} 0 0\n", t.user, t.nice, t.system,
                 t.idle, t.steal);
}

void append_zeros(std::string& text, std::string_view key, std::size_t columns) {
  text += key;
  for (std::size_t i = 0; i <= columns; ++i) text += " 0";
  text += '\n';
}

}  // namespace

std::string render_stat(const Resources& r) {
  if (!r.identity.limited && r.host.stat) return r.host.stat->text;
  std::vector<Ticks> cpus(r.cpus.shown.size());
  Ticks total;
  for (std::size_t i = 0; i < cpus.size() && i < r.cpu_times.size(); ++i) {
    cpus[i] = ticks(r.cpu_times[i]);
    total.user += cpus[i].user;
    total.nice += cpus[i].nice;
    total.system += cpus[i].system;
    total.idle += cpus[i].idle;
    total.steal += cpus[i].steal;
  }
  const std::size_t intr_columns = r.host.stat ? r.host.stat->intr_columns : 0;
  const std::size_t softirq_columns = r.host.stat ? r.host.stat->softirq_columns : 10;

  std::string text;
  text.reserve(256 + cpus.size() * 80 + 2 * (intr_columns + softirq_columns));
  text += "cpu ";
  append_columns(text, total);
  for (std::size_t i = 0; i < cpus.size(); ++i) {
    fmt::format_to(std::back_inserter(text), "cpu{}", r.cpus.shown[i].id);
    append_columns(text, cpus[i]);
  }
  append_zeros(text, "intr", intr_columns);
  fmt::format_to(std::back_inserter(text),
                 "ctxt 0\nbtime {}\nprocesses {}\nprocs_running {}\nprocs_blocked {}\n",
                 r.uptime.btime_s, r.processes, r.procs_running, r.procs_blocked);
  append_zeros(text, "softirq", softirq_columns);
  return text;
}

}  // namespace umwelt::view
