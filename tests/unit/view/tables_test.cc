// SPDX-License-Identifier: Apache-2.0
// The files of /proc that are tables of counters.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/parse.h"
#include "make.h"

namespace umwelt::view {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kInterrupts[] =
    "           CPU0       CPU1       CPU4       CPU5       \n"
    "  1:        777        777        777        777   IO-APIC   1-edge      i8042\n"
    "LOC:        777        777        777        777   Local timer interrupts\n"
    "ERR:        777\n";
constexpr char kSchedstat[] =
    "version 15\ntimestamp 777\n"
    "cpu1 777 0 777 777 777 777 777 777 777\n"
    "domain0 03 777 777\n"
    "domain1 ff 777 777\n"
    "cpu4 777 0 777 777 777 777 777 777 777\n"
    "domain0 30 777 777\n"
    "cpu5 777 0 777 777 777 777 777 777 777\n"
    "domain0 30 777 777\n";
constexpr char kZoneinfo[] =
    "Node 0, zone      DMA\n"
    "  per-node stats\n"
    "      nr_inactive_anon 777\n"
    "  pages free     777\n"
    "        min      777\n"
    "        spanned  777\n"
    "        managed  1000\n"
    "        protection: (777, 777, 777)\n"
    "      nr_free_pages 777\n"
    "  pagesets\n"
    "    cpu: 0\n"
    "              count: 777\n"
    "  vm stats threshold: 777\n"
    "    cpu: 4\n"
    "              count: 777\n"
    "  vm stats threshold: 777\n"
    "  start_pfn:           777\n"
    "Node 0, zone   Normal\n"
    "  pages free     777\n"
    "        managed  3000\n";
constexpr char kBuddyinfo[] =
    "Node 0, zone      DMA    777    777    777 \n"
    "Node 0, zone   Normal    777    777    777 \n";

template <class T>
std::shared_ptr<const T> shared(Result<T> value) {
  return std::make_shared<const T>(*std::move(value));
}

host::Facts host_with_tables() {
  host::Facts facts = make_host();
  facts.interrupts = shared(host::parse_per_cpu_table(kInterrupts));
  facts.softirqs = facts.interrupts;
  facts.schedstat = shared(host::parse_schedstat(kSchedstat));
  facts.zoneinfo = shared(host::parse_zoneinfo(kZoneinfo));
  facts.buddyinfo = shared(host::parse_buddyinfo(kBuddyinfo));
  facts.vmstat = std::make_shared<host::Vmstat>(host::Vmstat{{"nr_free_pages", 777},
                                                             {"nr_slab_reclaimable", 777},
                                                             {"nr_anon_pages", 777},
                                                             {"nr_file_pages", 777},
                                                             {"nr_kernel_stack", 777},
                                                             {"nr_anon_transparent_hugepages", 777},
                                                             {"nr_dirty_threshold", 777},
                                                             {"pgpgin", 777},
                                                             {"pgpgout", 777},
                                                             {"pgfault", 777},
                                                             {"oom_kill", 777}});
  facts.slabinfo = std::make_shared<host::Slabinfo>(
      host::Slabinfo{"slabinfo - version: 2.1\n", "slabinfo - version: 2.1\ndentry 777\n"});
  facts.controllers = std::make_shared<std::vector<host::Controller>>(
      std::vector<host::Controller>{{"cpuset", 3, 777, true}, {"rdma", 0, 777, false}});
  return facts;
}

Resources container(CpuIds ids = CpuIds::kHost, bool memory_limited = true) {
  Identity identity = make_identity();
  identity.policy.cpu_ids = ids;
  cgroup::State state = make_state("1,4-5");
  if (memory_limited) state.limits.memory_max_bytes = 256 * kMiB;
  state.memory->limit_usage_bytes = 100 * kMiB;
  state.memory->stat.anon = 60 * kMiB;
  state.memory->stat.anon_thp = 4 * kMiB;
  state.memory->stat.file = 20 * kMiB;
  state.memory->stat.swapcached = 1 * kMiB;
  state.memory->stat.kernel_stack = 64 << 10;
  state.memory->stat.slab_reclaimable = 8 << 10;
  state.memory_events = cgroup::MemoryEvents{{"anon", 60 * kMiB}, {"pgpgin", 5}, {"pgfault", 42}};
  state.io = std::vector<cgroup::DeviceIo>{{.read_bytes = 3072}, {.written_bytes = 5120}};
  Resources r = resources(host_with_tables(), state, identity, {3000 * kSecond, nullptr, nullptr});
  r.cpu_times = {{1, 2, 3, 4, 5}, {10, 0, 0, 0, 0}, {0, 0, 20, 0, 0}};
  return r;
}

Resources host_itself() {
  Identity identity = make_identity();
  identity.limited = false;
  return resources(host_with_tables(), make_state(), identity, {});
}

TEST(Tables, TheHostSeesTheKernelsOwnText) {
  const Resources r = host_itself();
  EXPECT_EQ(render_interrupts(r), kInterrupts);
  EXPECT_EQ(render_schedstat(r), kSchedstat);
  EXPECT_EQ(render_buddyinfo(r), kBuddyinfo);
  EXPECT_EQ(render_zoneinfo(r), kZoneinfo);
  EXPECT_EQ(render_slabinfo(r), "slabinfo - version: 2.1\ndentry 777\n");
  EXPECT_THAT(render_vmstat(r), HasSubstr("pgfault 777\n"));
  EXPECT_THAT(render_cgroups(r), HasSubstr("rdma\t0\t777\t0\n"));
}

TEST(Tables, NoFigureOfTheHostIsShown) {
  const Resources r = container();
  for (const auto render : {render_interrupts, render_softirqs, render_schedstat, render_zoneinfo,
                            render_buddyinfo, render_vmstat, render_slabinfo, render_cgroups})
    EXPECT_THAT(render(r), Not(HasSubstr("777")));
}

TEST(Interrupts, HaveTheColumnsOfTheShownCpus) {
  EXPECT_EQ(render_interrupts(container()),
            "           CPU1       CPU4       CPU5       \n"
            "  1:          0          0          0   IO-APIC   1-edge      i8042\n"
            "LOC:          0          0          0   Local timer interrupts\n"
            "ERR:          0\n");
  EXPECT_THAT(render_softirqs(container(CpuIds::kDense)),
              HasSubstr("           CPU0       CPU1       CPU2       \n"));
}

TEST(Schedstat, HasTheTimeOfTheShownCpusAndTheDomainsBetweenThem) {
  EXPECT_EQ(render_schedstat(container()),
            "version 15\ntimestamp 200000\n"
            "cpu1 0 0 0 0 0 0 6 0 0\ndomain1 32 0 0\n"
            "cpu4 0 0 0 0 0 0 10 0 0\ndomain0 30 0 0\n"
            "cpu5 0 0 0 0 0 0 20 0 0\ndomain0 30 0 0\n");
  EXPECT_THAT(render_schedstat(container(CpuIds::kDense)), HasSubstr("cpu1 0 0 0 0 0 0 10 0 0\n"
                                                                     "domain0 06 0 0\ncpu2 "));
}

TEST(Zoneinfo, AddsUpToTheContainersMemory) {
  const std::string text = render_zoneinfo(container());
  EXPECT_THAT(text, HasSubstr("Node 0, zone      DMA\n  per-node stats\n"
                              "      nr_inactive_anon 0\n  pages free     9984\n"
                              "        min      0\n        spanned  16384\n"
                              "        managed  16384\n        protection: (0, 0, 0)\n"
                              "      nr_free_pages 9984\n  pagesets\n    cpu: 4\n"
                              "              count: 0\n  vm stats threshold: 0\n"
                              "  start_pfn:           0\n"));
  EXPECT_THAT(text, HasSubstr("Node 0, zone   Normal\n  pages free     29952\n"
                              "        managed  49152\n"));
  EXPECT_THAT(render_zoneinfo(container(CpuIds::kDense)), HasSubstr("    cpu: 1\n"));
}

TEST(Zoneinfo, WithoutAMemoryLimitTheHostsFiguresOfTheShownCpus) {
  const std::string text = render_zoneinfo(container(CpuIds::kHost, false));
  EXPECT_THAT(text, HasSubstr("  pages free     777\n"));
  EXPECT_THAT(text, HasSubstr("    cpu: 4\n"));
  EXPECT_THAT(text, Not(HasSubstr("    cpu: 0\n")));
}

TEST(Buddyinfo, AddsUpToMemFree) {
  EXPECT_EQ(render_buddyinfo(container()),
            "Node 0, zone      DMA      0      0   2496 \n"
            "Node 0, zone   Normal      0      0   7488 \n");
}

TEST(Vmstat, GaugesAreMeminfosAndCountersTheCgroups) {
  EXPECT_EQ(render_vmstat(container()),
            "nr_free_pages 39936\nnr_slab_reclaimable 2\nnr_anon_pages 15360\n"
            "nr_file_pages 5376\nnr_kernel_stack 64\nnr_anon_transparent_hugepages 2\n"
            "nr_dirty_threshold 0\npgpgin 3\npgpgout 5\npgfault 42\noom_kill 0\n");
}

TEST(Vmstat, WithoutAMemoryLimitOnlyGaugesAreTheHosts) {
  const std::string text = render_vmstat(container(CpuIds::kHost, false));
  EXPECT_THAT(text, HasSubstr("nr_free_pages 2304000\nnr_slab_reclaimable 777\n"));
  EXPECT_THAT(text, HasSubstr("pgpgin 3\npgpgout 5\npgfault 42\noom_kill 0\n"));
}

TEST(Vmstat, OfADiskOfItsOwnOnlyThatDisksTransfers) {
  Resources r = container();
  r.io[0].major = 7;
  r.io[1].major = 254;
  r.identity.disk = Disk{7, 0, "rootfs", {0, 0, 4, 0, 0, 0, 100}};
  // Written back by the kernel, and so accounted to nobody on v1.
  r.host.diskstats = std::make_shared<std::vector<host::Disk>>(std::vector<host::Disk>{
      {254, 0, "vda", {1, 0, 80, 0, 1, 0, 80, 0}}, {7, 0, "loop0", {9, 0, 10, 0, 9, 0, 180, 0}}});
  EXPECT_THAT(render_vmstat(r), HasSubstr("pgpgin 3\npgpgout 40\n"));
}

TEST(Cgroups, AContainerHasOneOfEach) {
  EXPECT_EQ(render_cgroups(container()),
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\nrdma\t0\t1\t0\n");
}

}  // namespace
}  // namespace umwelt::view
