// SPDX-License-Identifier: Apache-2.0
#include "cgroup/cpu_time.h"

#include <algorithm>

#include "base/parse.h"
#include "cgroup/parse.h"

namespace umwelt::cgroup {
namespace {

std::uint64_t sum(const CpuTime& time) {
  return saturating_add(saturating_add(time.user_ns, time.nice_ns), time.system_ns);
}

std::uint64_t us_to_ns(std::uint64_t us) { return mul_div(us, 1000, 1); }

}  // namespace

CpuTime divide_cpu_time(const CpuTime& previous, const CpuTime& measured, std::uint64_t total_ns) {
  CpuTime out{previous.user_ns, previous.nice_ns, previous.system_ns, previous.throttled_ns, {}};
  const std::uint64_t grown = saturating_sub(total_ns, sum(previous));
  const std::uint64_t measured_sum = sum(measured);
  const auto lack = [&](std::uint64_t CpuTime::*part) {
    if (measured_sum == 0) return std::uint64_t{0};
    return saturating_sub(mul_div(total_ns, measured.*part, measured_sum), previous.*part);
  };
  // The targets add up to the total but for rounding, so the lacks add up to at least `grown`.
  const std::uint64_t user = lack(&CpuTime::user_ns);
  const std::uint64_t nice = lack(&CpuTime::nice_ns);
  const std::uint64_t system = lack(&CpuTime::system_ns);
  const std::uint64_t all =
      std::max<std::uint64_t>(saturating_add(saturating_add(user, nice), system), 1);
  const std::uint64_t nice_grown = std::min(mul_div(grown, nice, all), grown);
  const std::uint64_t system_grown = std::min(mul_div(grown, system, all), grown - nice_grown);
  out.nice_ns += nice_grown;
  out.system_ns += system_grown;
  out.user_ns += grown - nice_grown - system_grown;
  return out;
}

CpuTimeReader::CpuTimeReader(const Directory* cpu, const Directory* cpuacct)
    : cpu_(cpu), cpuacct_(cpuacct) {
  if (cpuacct && cpuacct->v2()) {
    times_ = HeldFile(cpuacct, 0, "cpu.stat");
  } else {
    times_ = HeldFile(cpuacct, 0, "cpuacct.usage_percpu");
    cpuacct_stat_ = HeldFile(cpuacct, 0, "cpuacct.stat");
  }
  if (cpu != cpuacct || !cpu || !cpu->v2()) cpu_stat_ = HeldFile(cpu, 0, "cpu.stat");
  cpu_stat_local_ = HeldFile(cpu, 0, "cpu.stat.local");
}

void CpuTimeReader::refresh(bool ancestor_has_quota) {
  ancestor_has_quota_ = ancestor_has_quota;
  for (HeldFile* file : {&times_, &cpuacct_stat_, &cpu_stat_, &cpu_stat_local_}) file->refresh();
}

Result<CpuTime> CpuTimeReader::read_v1(std::string& buffer) {
  CpuTime measured;
  std::vector<std::pair<unsigned, std::uint64_t>> per_cpu;
  std::uint64_t total_ns = 0;
  if (const auto text = UMWELT_TRY(times_.read(buffer))) {
    const auto usage = UMWELT_TRY(parse_usage_percpu(*text));
    for (unsigned id = 0; id < usage.size(); ++id) {
      per_cpu.emplace_back(id, usage[id]);
      total_ns = saturating_add(total_ns, usage[id]);
    }
  }
  if (const auto text = UMWELT_TRY(cpuacct_stat_.read(buffer))) {
    const CpuacctStat ticks = UMWELT_TRY(parse_cpuacct_stat(*text));
    measured.user_ns = ticks.user;  // only their ratio counts
    measured.system_ns = ticks.system;
  }
  CpuTime time = divide_cpu_time(previous_, measured, total_ns);
  time.per_cpu = std::move(per_cpu);
  return time;
}

Result<CpuTime> CpuTimeReader::read_v2(std::string& buffer) {
  const auto text = UMWELT_TRY(times_.read(buffer));
  if (!text) return previous_;
  const CpuStat stat = UMWELT_TRY(parse_cpu_stat(*text));
  CpuTime measured;
  measured.nice_ns = us_to_ns(std::min(stat.nice_us, stat.user_us));
  measured.user_ns = us_to_ns(stat.user_us) - measured.nice_ns;
  measured.system_ns = us_to_ns(stat.system_us);
  CpuTime time = divide_cpu_time(previous_, measured, us_to_ns(stat.usage_us));
  time.throttled_ns = us_to_ns(stat.throttled_us);
  return time;
}

Result<std::uint64_t> CpuTimeReader::read_throttled(std::string& buffer, std::uint64_t known_ns) {
  if (!cpu_) return known_ns;
  const auto parse = [&](std::string_view text) -> Result<std::uint64_t> {
    if (!cpu_->v2()) return parse_throttled_time_v1(text);
    return us_to_ns(UMWELT_TRY(parse_cpu_stat(text)).throttled_us);
  };
  std::uint64_t throttled_ns = known_ns;
  if (const auto text = UMWELT_TRY(cpu_stat_.read(buffer)))
    throttled_ns = std::max(throttled_ns, UMWELT_TRY(parse(*text)));
  // cpu.stat counts the cgroup's own quota; what an ancestor's quota did to the tasks here is in
  // cpu.stat.local (since 6.6). Every v2 cgroup has that file; where the cpu controller ends at an
  // ancestor there is nothing in it (cgroup_local_stat_show() in kernel/cgroup/cgroup.c).
  if (ancestor_has_quota_) {
    const auto text = UMWELT_TRY(cpu_stat_local_.read(buffer));
    if (text && !text->empty()) throttled_ns = std::max(throttled_ns, UMWELT_TRY(parse(*text)));
  }
  return throttled_ns;
}

Result<CpuTime> CpuTimeReader::read(std::string& buffer) {
  CpuTime time;
  if (cpuacct_) time = UMWELT_TRY(cpuacct_->v2() ? read_v2(buffer) : read_v1(buffer));
  time.throttled_ns =
      std::max(UMWELT_TRY(read_throttled(buffer, time.throttled_ns)), previous_.throttled_ns);
  previous_ = {time.user_ns, time.nice_ns, time.system_ns, time.throttled_ns, {}};
  return time;
}

}  // namespace umwelt::cgroup
