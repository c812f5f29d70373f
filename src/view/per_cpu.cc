// SPDX-License-Identifier: Apache-2.0
// Files of /proc with a column or a line for each CPU: those that the container does not have fall
// away. Nothing in them but the time on a CPU is accounted for a container.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <optional>

#include "base/parse.h"
#include "view/files.h"
#include "view/sys_cpu.h"

namespace umwelt::view {
namespace {

constexpr std::uint64_t kNsPerTick = 10'000'000;  // USER_HZ is 100

void append_count(std::string& text, std::uint64_t count) {
  fmt::format_to(std::back_inserter(text), " {:>10}", count);
}

// The layout of show_interrupts() in kernel/irq/proc.c and show_softirqs() in fs/proc/softirqs.c.
std::string render_table(const Resources& r, const host::PerCpuTable* table) {
  std::string text;
  if (table == nullptr) return text;
  const bool own = r.identity.limited;
  const std::size_t columns = own ? r.cpus.shown.size() : table->cpus.size();
  text += table->corner;
  for (std::size_t i = 0; i < columns; ++i)
    fmt::format_to(std::back_inserter(text), "CPU{:<8}", own ? r.cpus.shown[i].id : table->cpus[i]);
  text += '\n';
  for (const host::PerCpuTable::Row& row : table->rows) {
    text += row.label;
    if (!own) {
      for (const std::uint64_t count : row.counts) append_count(text, count);
    } else {
      // A row that is no CPU's ("ERR") has one number.
      const bool of_cpus = row.counts.size() == table->cpus.size();
      for (std::size_t i = 0; i < (of_cpus ? columns : row.counts.size()); ++i)
        append_count(text, 0);
    }
    text += row.rest;
    text += '\n';
  }
  return text;
}

const host::Schedstat::Cpu* find_cpu(const host::Schedstat& schedstat, unsigned physical) {
  const auto found =
      std::find_if(schedstat.cpus.begin(), schedstat.cpus.end(),
                   [&](const host::Schedstat::Cpu& cpu) { return cpu.id == physical; });
  return found == schedstat.cpus.end() ? nullptr : &*found;
}

// Every number 0 but, where there is one, that of column `own_column`.
std::string neutral_counters(std::string_view counters, std::size_t own_column,
                             std::uint64_t own_value) {
  std::string text;
  std::size_t column = 0;
  for (std::string_view word = next_word(counters); !word.empty(); word = next_word(counters))
    fmt::format_to(std::back_inserter(text), " {}", column++ == own_column ? own_value : 0);
  return text;
}

// A domain of one CPU is none.
void append_domain(std::string& text, const Resources& r, const host::Schedstat::Domain& domain) {
  const std::optional<CpuSet> mask = CpuSet::parse_mask(domain.mask);
  if (!mask) return;
  const CpuSet cpus = r.cpus.translate(*mask);
  if (cpus.count() < 2) return;
  constexpr std::size_t kNone = ~std::size_t{0};
  fmt::format_to(std::back_inserter(text), "{} {}{}\n", domain.name,
                 cpus.mask(mask_bits(domain.mask)), neutral_counters(domain.rest, kNone, 0));
}

// "version 15", and the time that the file was read at.
std::string schedstat_header(const Resources& r) {
  std::string text;
  std::string_view header = r.host.schedstat->header;
  while (const auto line = next_line(header)) {
    if (line->starts_with("timestamp "))
      fmt::format_to(std::back_inserter(text), "timestamp {}\n", r.uptime.uptime_ns / kNsPerTick);
    else
      fmt::format_to(std::back_inserter(text), "{}\n", *line);
  }
  return text;
}

std::string render_host_schedstat(const host::Schedstat& schedstat) {
  std::string text = schedstat.header;
  for (const host::Schedstat::Cpu& cpu : schedstat.cpus) {
    fmt::format_to(std::back_inserter(text), "cpu{}{}\n", cpu.id, cpu.rest);
    for (const host::Schedstat::Domain& domain : cpu.domains)
      fmt::format_to(std::back_inserter(text), "{} {}{}\n", domain.name, domain.mask, domain.rest);
  }
  return text;
}

}  // namespace

std::string render_interrupts(const Resources& r) {
  return render_table(r, r.host.interrupts.get());
}
std::string render_softirqs(const Resources& r) { return render_table(r, r.host.softirqs.get()); }

std::string render_schedstat(const Resources& r) {
  if (!r.host.schedstat) return {};
  if (!r.identity.limited) return render_host_schedstat(*r.host.schedstat);
  constexpr std::size_t kCpuTime = 6;  // rq_cpu_time, of 9 columns
  std::string text = schedstat_header(r);
  for (std::size_t i = 0; i < r.cpus.shown.size(); ++i) {
    const host::Schedstat::Cpu* cpu = find_cpu(*r.host.schedstat, r.cpus.shown[i].physical);
    if (cpu == nullptr) continue;
    const ShownCpuTime time = i < r.cpu_times.size() ? r.cpu_times[i] : ShownCpuTime{};
    fmt::format_to(
        std::back_inserter(text), "cpu{}{}\n", r.cpus.shown[i].id,
        neutral_counters(cpu->rest, kCpuTime, time.user_ns + time.nice_ns + time.system_ns));
    for (const host::Schedstat::Domain& domain : cpu->domains) append_domain(text, r, domain);
  }
  return text;
}

}  // namespace umwelt::view
