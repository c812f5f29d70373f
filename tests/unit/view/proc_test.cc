// SPDX-License-Identifier: Apache-2.0
// The text of every file in /proc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/parse.h"
#include "make.h"

namespace umwelt::view {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Resources container(std::string_view cpus, CpuIds ids = CpuIds::kHost) {
  Identity identity = make_identity();
  identity.policy.cpu_ids = ids;
  cgroup::State state = make_state(cpus);
  state.limits.memory_max_bytes = 256 * kMiB;
  state.limits.swap_max_bytes = 64 * kMiB;
  state.limits.hugetlb = {{2 * kMiB, 0}, {1024 * kMiB, 0}};
  state.memory->usage_bytes = state.memory->limit_usage_bytes = 100 * kMiB;
  state.memory->swap_usage_bytes = state.memory->limit_swap_usage_bytes = 4 * kMiB;
  state.memory->stat.anon = 60 * kMiB;
  state.memory->stat.file = 30 * kMiB;
  state.memory->stat.swapcached = 2 * kMiB;
  state.memory->stat.file_mapped = 7 * kMiB;
  state.memory->stat.active_anon = 40 * kMiB;
  state.memory->stat.active_file = 9 * kMiB;
  state.memory->stat.slab_reclaimable = 3 * kMiB;
  state.memory->stat.slab_unreclaimable = 1 * kMiB;
  state.tasks->processes = 5;
  state.tasks->total = 9;
  state.tasks->running = 2;
  state.tasks->uninterruptible = 1;
  return resources(make_host(), state, identity, {2000 * kSecond, nullptr, nullptr});
}

Resources host_itself() {
  Identity identity = make_identity();
  identity.limited = false;
  return resources(make_host(), make_state(), identity, {});
}

TEST(Cpuinfo, HostIdsKeepTheKernelsNumbersAndCountWhatIsShown) {
  EXPECT_EQ(render_cpuinfo(container("1,4-5")),
            "processor\t: 1\nmodel name\t: Test CPU\nphysical id\t: 2\nsiblings\t: 1\n"
            "core id\t\t: 8\ncpu cores\t: 1\napicid\t\t: 33\ninitial apicid\t: 33\n"
            "power management:\n\n"
            "processor\t: 4\nmodel name\t: Test CPU\nphysical id\t: 3\nsiblings\t: 2\n"
            "core id\t\t: 8\ncpu cores\t: 1\napicid\t\t: 36\ninitial apicid\t: 36\n"
            "power management:\n\n"
            "processor\t: 5\nmodel name\t: Test CPU\nphysical id\t: 3\nsiblings\t: 2\n"
            "core id\t\t: 8\ncpu cores\t: 1\napicid\t\t: 37\ninitial apicid\t: 37\n"
            "power management:\n\n");
}

TEST(Cpuinfo, DenseIdsCountFromZero) {
  EXPECT_EQ(render_cpuinfo(container("5-7", CpuIds::kDense)),
            "processor\t: 0\nmodel name\t: Test CPU\nphysical id\t: 0\nsiblings\t: 3\n"
            "core id\t\t: 0\ncpu cores\t: 2\napicid\t\t: 0\ninitial apicid\t: 0\n"
            "power management:\n\n"
            "processor\t: 1\nmodel name\t: Test CPU\nphysical id\t: 0\nsiblings\t: 3\n"
            "core id\t\t: 1\ncpu cores\t: 2\napicid\t\t: 1\ninitial apicid\t: 1\n"
            "power management:\n\n"
            "processor\t: 2\nmodel name\t: Test CPU\nphysical id\t: 0\nsiblings\t: 3\n"
            "core id\t\t: 1\ncpu cores\t: 2\napicid\t\t: 2\ninitial apicid\t: 2\n"
            "power management:\n\n");
}

TEST(Cpuinfo, TheHostSeesItsOwn) {
  const std::string text = render_cpuinfo(host_itself());
  EXPECT_THAT(text, HasSubstr("processor\t: 7\nmodel name\t: Test CPU\nphysical id\t: 3\n"
                              "siblings\t: 4\ncore id\t\t: 9\ncpu cores\t: 2\napicid\t\t: 39\n"));
}

TEST(Meminfo, ShowsTheContainersFigures) {
  const std::string text = render_meminfo(container("0"));
  const std::pair<const char*, std::uint64_t> expected[] = {
      {"MemTotal", 256}, {"MemFree", 156},     {"MemAvailable", 156}, {"Buffers", 0},
      {"Cached", 30},    {"SwapCached", 2},    {"Active", 49},        {"Active(anon)", 40},
      {"SwapTotal", 64}, {"SwapFree", 60},     {"AnonPages", 60},     {"Mapped", 7},
      {"Slab", 4},       {"SReclaimable", 3},  {"KReclaimable", 3},   {"SUnreclaim", 1},
      {"Percpu", 0},     {"CommitLimit", 192}, {"Hugepagesize", 2},   {"VmallocTotal", 33554431}};
  for (const auto& [key, mib] : expected) EXPECT_EQ(meminfo_value(text, key), mib * 1024) << key;
  EXPECT_THAT(text, Not(HasSubstr("777")));
}

TEST(Meminfo, HugePagesUpToTheirLimit) {
  cgroup::State state = make_state("0");
  state.limits.memory_max_bytes = 256 * kMiB;
  const auto text = [&] {
    return render_meminfo(resources(make_host(), state, make_identity(), {}));
  };
  // Not limited: the host's pool.
  EXPECT_THAT(text(), HasSubstr("HugePages_Total:     777\nHugePages_Free:      777\n"));
  state.limits.hugetlb = {{2 * kMiB, 20 * kMiB}, {1024 * kMiB, 0}};
  state.hugetlb = std::vector<cgroup::HugetlbUsage>{{2 * kMiB, 6 * kMiB}};
  EXPECT_THAT(text(), HasSubstr("HugePages_Total:      10\nHugePages_Free:        7\n"
                                "HugePages_Rsvd:        0\nHugePages_Surp:        0\n"));
  EXPECT_EQ(meminfo_value(text(), "Hugetlb"), 20U * 1024);
  state.limits.hugetlb = {{2 * kMiB, 1ULL << 50}};
  EXPECT_THAT(text(), HasSubstr("HugePages_Total:     777\n"));
}

TEST(Meminfo, LinesAreAsWideAsTheKernelsAndInItsOrder) {
  const std::string text = render_meminfo(host_itself());
  EXPECT_THAT(text, HasSubstr("MemTotal:       16777216 kB\nMemFree:         9216000 kB\n"));
  EXPECT_THAT(text, HasSubstr("HardwareCorrupted: 795648 kB\n"));
  EXPECT_THAT(text, HasSubstr("VmallocTotal:   34359737344 kB\n"));
  EXPECT_THAT(text, HasSubstr("HugePages_Total:     777\nHugePages_Free:      777\n"));
  EXPECT_THAT(text, HasSubstr("HugePages_Surp:      777\nHugepagesize:       2048 kB\n"));
}

TEST(Stat, LinesOfTheContainer) {
  Resources r = container("1,4");
  r.cpu_times = {{123 * 10'000'000 + 9'999'999, 0, 20'000'000, 30'000'000, 40'000'000},
                 {9'999'999, 10'000'000, 0, 0, 0}};
  EXPECT_EQ(render_stat(r),
            "cpu  123 1 2 3 0 0 0 4 0 0\n"
            "cpu1 123 0 2 3 0 0 0 4 0 0\n"
            "cpu4 0 1 0 0 0 0 0 0 0 0\n"
            "intr 0 0 0 0\nctxt 0\nbtime 1700000000\nprocesses 5\nprocs_running 3\n"
            "procs_blocked 1\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n");
  EXPECT_EQ(render_stat(host_itself()), "cpu  the host's own text\n");
}

TEST(Stat, NoCpuIsWithoutTime) {
  Resources r = container("1,4");
  r.cpu_times = {{9'999'999, 0, 9'999'999, 1, 0}, {0, 0, 0, 10'000'001, 0}};
  EXPECT_THAT(render_stat(r), HasSubstr("cpu  0 0 0 3 0 0 0 0 0 0\ncpu1 0 0 0 1 0 0 0 0 0 0\n"
                                        "cpu4 0 0 0 2 0 0 0 0 0 0\n"));
}

TEST(Stat, ManyCpusAreAllThere) {
  cgroup::State state = make_state("0-511");
  const Resources r = resources(make_host(512, 64), state, make_identity(), {});
  const std::string text = render_stat(r);
  EXPECT_THAT(text, HasSubstr("\ncpu511 0 0"));
  std::string_view rest = text;
  unsigned lines = 0;
  while (auto line = next_line(rest)) lines += line->starts_with("cpu");
  EXPECT_EQ(lines, 513U);
}

TEST(Uptime, IsTheContainersAgeAndItsIdleTime) {
  CpuAccounting accounting;
  accounting.by_id = {{1, {0, 0, 0, 999 * kSecond, 0}}, {4, {0, 0, 0, 1'050'000'000, 0}}};
  Identity identity = make_identity();
  const Moment moment{2000 * kSecond + 70'000'000, &accounting, nullptr};
  EXPECT_EQ(render_uptime(resources(make_host(), make_state("1,4"), identity, moment)),
            "1000.07 1000.05\n");
  identity.policy.uptime = UptimePolicy::kHost;
  const Resources r = resources(make_host(), make_state("1,4"), identity, moment);
  EXPECT_EQ(render_uptime(r), "5000.00 1000.05\n");
  EXPECT_EQ(r.uptime.btime_s, 1'600'000'000);
  EXPECT_EQ(render_uptime(host_itself()), "5000.00 9000.00\n");
}

// What /proc/PID/stat has counts from the machine's boot then.
TEST(Uptime, WithoutATimeNamespaceProcessesAreNotOfTheFuture) {
  Identity identity = make_identity();
  const auto btime = [&] {
    return resources(make_host(), make_state(), identity, {}).uptime.btime_s;
  };
  EXPECT_EQ(btime(), 1'700'000'000);
  identity.time_namespace = false;
  EXPECT_EQ(btime(), 1'600'000'000);
  identity.policy.uptime = UptimePolicy::kContainer;
  EXPECT_EQ(btime(), 1'700'000'000);
}

TEST(Loadavg, HasFiveFields) {
  LoadAccounting load;
  load.load1 = 0.125, load.load5 = 12.5, load.load15 = 3.999;
  load.running = 2, load.total = 9;
  const Moment moment{0, nullptr, &load};
  EXPECT_EQ(render_loadavg(resources(make_host(), make_state(), make_identity(), moment)),
            "0.12 12.50 4.00 3/9 0\n");
  EXPECT_EQ(render_loadavg(host_itself()), "7.50 6.50 5.50 9/999 4711\n");
  load.running = 9;  // read from outside
  EXPECT_EQ(render_loadavg(resources(make_host(), make_state(), make_identity(), moment)),
            "0.12 12.50 4.00 9/9 0\n");
}

constexpr char kSwapsHeading[] = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

TEST(Swaps, OneLineForTheContainersShare) {
  EXPECT_EQ(render_swaps(container("0")),
            std::string(kSwapsHeading) +
                "none                                    virtual\t\t65536\t\t4096\t\t0\n");
}

TEST(Swaps, NoneWithoutSwap) {
  Resources r = container("0");
  r.memory.swap_total = r.memory.swap_free = 0;
  EXPECT_EQ(render_swaps(r), kSwapsHeading);
}

TEST(Swaps, LargeSizesAreNotCut) {
  Resources r = container("0");
  r.memory.swap_total = 1ULL << 50;
  r.memory.swap_free = 0;
  EXPECT_THAT(render_swaps(r), HasSubstr("virtual\t\t1099511627776\t1099511627776\t0\n"));
}

TEST(Swaps, WithoutALimitTheHostsOwn) {
  Resources r = host_itself();
  EXPECT_EQ(render_swaps(r),
            std::string(kSwapsHeading) +
                "/dev/sda2                               partition\t2097152\t\t50176\t\t-2\n");
  r.host.swaps = std::make_shared<std::vector<host::Swap>>(
      std::vector<host::Swap>{{"/a b\\c", "file", kMiB, 0, 5}});
  EXPECT_EQ(render_swaps(r),
            std::string(kSwapsHeading) +
                "/a\\040b\\134c                            file\t\t1024\t\t0\t\t5\n");
}

}  // namespace
}  // namespace umwelt::view
