// SPDX-License-Identifier: Apache-2.0
// Hosts and containers built in code.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <string>
#include <string_view>

#include "view/files.h"

namespace umwelt::view {

inline constexpr std::uint64_t kMiB = 1ULL << 20;
inline constexpr std::uint64_t kSecond = 1'000'000'000;

// `cpus` CPUs, two threads a core (neighbours), in packages of `package` CPUs; the kernel's numbers
// of packages and cores start at 2 and 8, so that nobody mistakes them for ids.
inline std::shared_ptr<host::Cpus> make_cpus(unsigned cpus, unsigned package) {
  auto host = std::make_shared<host::Cpus>();
  host->online = host->present = CpuSet::range(0, cpus - 1);
  host->possible = CpuSet::range(0, 2 * cpus - 1);
  host->kernel_max = 8191;
  for (unsigned id = 0; id < cpus; ++id) {
    host::CpuTopology topology;
    topology.id = id;
    topology.physical_package_id = 2 + id / package;
    topology.die_id = 0;
    topology.core_id = 8 + id % package / 2;
    topology.thread_siblings = CpuSet::range(id / 2 * 2, id / 2 * 2 + 1);
    topology.package_cpus =
        CpuSet::range(id / package * package, id / package * package + package - 1);
    host->topology.push_back(topology);
    host::CpuinfoBlock block;
    block.processor = id;
    block.fields = {{"processor", "\t: ", std::to_string(id)},
                    {"model name", "\t: ", "Test CPU"},
                    {"physical id", "\t: ", std::to_string(2 + id / package)},
                    {"siblings", "\t: ", std::to_string(package)},
                    {"core id", "\t\t: ", std::to_string(8 + id % package / 2)},
                    {"cpu cores", "\t: ", std::to_string(package / 2)},
                    {"apicid", "\t\t: ", std::to_string(32 + id)},
                    {"initial apicid", "\t: ", std::to_string(32 + id)},
                    {"power management", ":", ""}};
    host->cpuinfo.blocks.push_back(block);
  }
  return host;
}

inline std::shared_ptr<host::Meminfo> make_meminfo() {
  auto meminfo = std::make_shared<host::Meminfo>();
  const auto kib = [&](const char* key, std::uint64_t mib) {
    meminfo->rows.push_back({key, mib * kMiB, true});
  };
  kib("MemTotal", 16384);
  kib("MemFree", 9000);
  kib("MemAvailable", 12000);
  kib("Buffers", 111);
  kib("Cached", 2222);
  kib("SwapCached", 33);
  for (const char* key : {"Active", "Inactive", "Active(anon)", "Inactive(anon)", "Active(file)",
                          "Inactive(file)", "Unevictable", "Mlocked"})
    kib(key, 777);
  kib("SwapTotal", 2048);
  kib("SwapFree", 1999);
  for (const char* key : {"Zswap", "Zswapped", "Dirty", "Writeback", "AnonPages", "Mapped", "Shmem",
                          "KReclaimable", "Slab", "SReclaimable", "SUnreclaim", "KernelStack",
                          "PageTables", "SecPageTables", "NFS_Unstable", "Bounce", "WritebackTmp"})
    kib(key, 777);
  kib("CommitLimit", (16384 - 777) / 2 + 2048);
  kib("Committed_AS", 777);
  kib("VmallocTotal", 33554431);
  for (const char* key : {"VmallocUsed", "VmallocChunk", "Percpu", "HardwareCorrupted",
                          "AnonHugePages", "ShmemHugePages", "ShmemPmdMapped", "FileHugePages",
                          "FilePmdMapped", "CmaTotal", "CmaFree", "Unaccepted", "SomeNewLine"})
    kib(key, 777);
  for (const char* key : {"HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp"})
    meminfo->rows.push_back({key, 777, false});
  kib("Hugepagesize", 2);
  for (const char* key : {"Hugetlb", "DirectMap4k", "DirectMap2M", "DirectMap1G"}) kib(key, 777);
  return meminfo;
}

inline host::Facts make_host(unsigned cpus = 8, unsigned package = 4) {
  host::Facts facts;
  facts.cpus = make_cpus(cpus, package);
  facts.meminfo = make_meminfo();
  auto stat = std::make_shared<host::Stat>();
  stat->btime = 1'600'000'000;
  stat->intr_columns = 3;
  stat->softirq_columns = 10;
  stat->text = "cpu  the host's own text\n";
  facts.stat = stat;
  facts.swaps = std::make_shared<std::vector<host::Swap>>(
      std::vector<host::Swap>{{"/dev/sda2", "partition", 2048 * kMiB, 49 * kMiB, -2}});
  facts.uptime = host::Uptime{5000 * kSecond, 9000 * kSecond};
  facts.loadavg = host::Loadavg{7.5, 6.5, 5.5, 9, 999, 4711};
  return facts;
}

inline Identity make_identity() {
  Identity identity;
  identity.id = "web-1";
  identity.name = "web";
  identity.hostname = "web.example";
  identity.start_boottime_ns = 1000 * kSecond;
  identity.start_realtime_s = 1'700'000'000;
  identity.time_namespace = true;
  return identity;
}

inline cgroup::State make_state(std::string_view cpus = "0-7") {
  cgroup::State state;
  state.limits.cpus = *CpuSet::parse(cpus);
  state.memory.emplace();
  state.cpu_time.emplace();
  state.tasks.emplace();
  return state;
}

// The number after "KEY:" in meminfo, in KiB.
inline std::optional<std::uint64_t> meminfo_value(const std::string& text, const std::string& key) {
  const std::string start = "\n" + key + ":";
  const std::size_t at = ("\n" + text).find(start);
  if (at == std::string::npos) return std::nullopt;
  return std::stoull(text.substr(at + start.size() - 1));
}

}  // namespace umwelt::view
