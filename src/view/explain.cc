// SPDX-License-Identifier: Apache-2.0
#include "view/explain.h"

#include "base/parse.h"

namespace umwelt::view {
namespace {

constexpr const char* kCpuSource = "cpuset.cpus.effective cpu.max";
constexpr const char* kCpuOnline = "/sys/devices/system/cpu/online";

void add_names(std::string_view names, LineSource& source) {
  for (auto name = next_word(names); !name.empty(); name = next_word(names))
    source.cgroup.emplace_back(name);
}

std::string cpus_note(const Resources& r) {
  std::string note = r.cpus.dense ? "numbered from 0; " : "";
  note += "the first " + std::to_string(r.cpus.count()) + " of the online CPUs in the cpuset " +
          r.cpus.allowed.list();
  return note;
}

LineSource cpus_source(const Resources& r) {
  LineSource source;
  if (r.identity.limited) add_names(kCpuSource, source);
  source.host.push_back({kCpuOnline, ""});
  source.note = cpus_note(r);
  return source;
}

LineSource explain_meminfo(const File&, const Resources& r, std::string_view line) {
  const std::string_view key = line.substr(0, line.find(':'));
  const MeminfoSource found = meminfo_source(r, key);
  LineSource source;
  if (found.host) source.host.push_back({"/proc/meminfo", std::string(key) + ":"});
  add_names(found.cgroup, source);
  if (!found.host && found.cgroup.empty()) source.note = "0: no cgroup counts it";
  if (key == "MemTotal" && r.nodes.restricted) {
    source.cgroup.emplace_back("cpuset.mems.effective");
    for (const NodeMemory& node : r.nodes.memory)
      source.host.push_back(
          {"/sys/devices/system/node/node" + std::to_string(node.node) + "/meminfo", ""});
  }
  return source;
}

struct Row {
  std::string_view key;  // of the line, without a number at its end
  std::string_view cgroup;
  std::string_view note;
};
// "cpu" also stands for "cpu0".
constexpr Row kStatRows[] = {
    {"cpu", "cpu.used cpu.throttled cpuset.cpus.effective cpu.max",
     "spread over the shown CPUs; idle is the time since the container's start that is left"},
    {"processes", "cgroup.threads", "processes now, or as many as were seen to start"},
    {"procs_running", "cgroup.threads", "tasks that are running or runnable, and who reads"},
    {"procs_blocked", "cgroup.threads", "tasks in uninterruptible sleep"},
};

LineSource explain_stat(const File&, const Resources& r, std::string_view line) {
  std::string_view key = next_word(line);
  LineSource source;
  if (!r.identity.limited) {
    source.host.push_back({"/proc/stat", std::string(key)});
    return source;
  }
  if (key == "btime" && has_own_btime(r.identity)) {
    source.note = "when the container started";
    return source;
  }
  key = key.substr(0, key.find_last_not_of("0123456789") + 1);
  for (const Row& row : kStatRows) {
    if (row.key != key) continue;
    add_names(row.cgroup, source);
    source.note = row.note;
    return source;
  }
  if (line.find_first_of("123456789") == std::string_view::npos)
    source.note = "0: no cgroup counts it";
  else
    source.host.push_back({"/proc/stat", std::string(key)});
  return source;
}

LineSource explain_uptime(const File&, const Resources& r, std::string_view) {
  LineSource source;
  if (!r.identity.limited || r.identity.policy.uptime == UptimePolicy::kHost) {
    source.host.push_back({"/proc/uptime", ""});
  } else {
    source.note = "the first since the container's start at " +
                  std::to_string(r.identity.start_boottime_ns / 1'000'000'000) +
                  " s of CLOCK_BOOTTIME; the second is what its CPUs did not use since then";
    add_names("cpu.used cpu.throttled", source);
  }
  return source;
}

LineSource explain_loadavg(const File&, const Resources& r, std::string_view) {
  LineSource source;
  if (!r.identity.limited) {
    source.host.push_back({"/proc/loadavg", ""});
    return source;
  }
  add_names("cgroup.threads cpu.used cpu.throttled", source);
  source.note = "the kernel's formula on the container's own tasks";
  return source;
}

LineSource explain_swaps(const File&, const Resources& r, std::string_view line) {
  LineSource source;
  if (line.starts_with("Filename"))
    source.note = "the heading";
  else if (r.memory.swap_limited)
    add_names("memory.swap.max memory.swap.current", source);
  else
    source.host.push_back({"/proc/swaps", std::string(next_word(line))});
  return source;
}

LineSource explain_cpuinfo(const File&, const Resources& r, std::string_view line) {
  LineSource source;
  const std::string_view key = trim(line.substr(0, line.find(':')));
  if (!key.empty() && (key == "processor" || key == "siblings" || key == "cpu cores" ||
                       (r.cpus.dense && (key == "physical id" || key == "core id" ||
                                         key == "apicid" || key == "initial apicid"))))
    return cpus_source(r);
  source.host.push_back({"/proc/cpuinfo", ""});
  source.note = "of the physical CPU";
  return source;
}

LineSource explain_nodes(const File&, const Resources& r, std::string_view) {
  LineSource source = cpus_source(r);
  if (r.identity.limited) source.cgroup.emplace_back("cpuset.mems.effective");
  source.host.push_back({"/sys/devices/system/node/online", ""});
  source.note = "nodes of the shown CPUs and of the memory that may be used";
  return source;
}

LineSource explain_pressure(const File& file, const Resources& r, std::string_view line) {
  const std::string name(file.path.substr(file.path.rfind('/') + 1));
  LineSource source;
  if (r.identity.limited)
    source.cgroup.push_back(name + ".pressure:" + std::string(next_word(line)));
  else
    source.host.push_back({"/" + std::string(file.path), std::string(next_word(line))});
  return source;
}

LineSource explain_cpu_list(const File&, const Resources& r, std::string_view) {
  return cpus_source(r);
}

// The files of /sys/devices/system/cpu that stay the host's under host ids.
LineSource explain_host_cpu_list(const File& file, const Resources& r, std::string_view) {
  if (r.cpus.dense) return cpus_source(r);
  LineSource source;
  source.host.push_back({"/" + std::string(file.path), ""});
  return source;
}

struct Explained {
  std::string_view path;  // what ends with '/' stands for all below it
  LineSource (*explain)(const File&, const Resources&, std::string_view line);
};
// The first that fits.
constexpr Explained kExplained[] = {
    {"proc/cpuinfo", explain_cpuinfo},
    {"proc/loadavg", explain_loadavg},
    {"proc/meminfo", explain_meminfo},
    {"proc/pressure/", explain_pressure},
    {"proc/stat", explain_stat},
    {"proc/swaps", explain_swaps},
    {"proc/uptime", explain_uptime},
    {"sys/devices/system/cpu/online", explain_cpu_list},
    {"sys/devices/system/cpu/offline", explain_cpu_list},
    {"sys/devices/system/cpu/", explain_host_cpu_list},
    {"sys/devices/system/node/possible", explain_host_cpu_list},
    {"sys/devices/system/node/", explain_nodes},
};

struct Part {
  unsigned need;
  std::string_view cgroup;
};
constexpr Part kParts[] = {
    {kNeedLimits, "cpuset.cpus.effective cpu.max memory.max memory.swap.max pids.max"},
    {kNeedMemory, "memory.max limit:memory.current memory.stat"},
    {kNeedCpuTime, "cpu.used cpu.throttled"},
    {kNeedTasks | kNeedLoad, "cgroup.threads"},
    {kNeedSwaps, "memory.swap.max memory.swap.current"},
    {kNeedDiskstats | kNeedPartitions, "io.stat"},
    {kNeedVmstat | kNeedZones, "memory.max limit:memory.current memory.stat"},
    {kNeedInterrupts | kNeedSoftirqs | kNeedSchedstat, "cpuset.cpus.effective cpu.max"},
};

}  // namespace

LineSource explain_line(const File& file, const Resources& r, std::string_view line) {
  for (const Explained& row : kExplained)
    if (row.path.ends_with('/') ? file.path.starts_with(row.path) : file.path == row.path)
      return row.explain(file, r, line);
  LineSource source;
  for (const Part& part : kParts)
    if ((file.needs & part.need) != 0 && r.identity.limited) add_names(part.cgroup, source);
  const std::string path = "/" + std::string(file.path);
  if (!path.starts_with("/run/")) source.host.push_back({path, ""});
  source.note = "made of these; see the file's page in docs/views";
  return source;
}

}  // namespace umwelt::view
