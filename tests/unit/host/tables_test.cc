// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/file.h"
#include "host/parse.h"
#include "host/reader.h"

namespace umwelt::host {
namespace {

std::string written_back(const PerCpuTable& table) {
  char number[32];
  std::string text = table.corner;
  for (const unsigned cpu : table.cpus) {
    std::snprintf(number, sizeof(number), "CPU%-8u", cpu);
    text += number;
  }
  text += "\n";
  for (const PerCpuTable::Row& row : table.rows) {
    text += row.label;
    for (const std::uint64_t count : row.counts) {
      std::snprintf(number, sizeof(number), " %10llu", static_cast<unsigned long long>(count));
      text += number;
    }
    text += row.rest + "\n";
  }
  return text;
}

std::string written_back(const Schedstat& schedstat) {
  std::string text = schedstat.header;
  for (const Schedstat::Cpu& cpu : schedstat.cpus) {
    text += "cpu" + std::to_string(cpu.id) + cpu.rest + "\n";
    for (const Schedstat::Domain& domain : cpu.domains)
      text += domain.name + " " + domain.mask + domain.rest + "\n";
  }
  return text;
}

// The recorded machines and this one.
std::vector<std::string> proc_directories() {
  const std::string hosts =
      std::string(std::getenv("UMWELT_SOURCE_ROOT")) + "/tests/fixtures/hosts/";
  return {"/proc", hosts + "hybrid-2cpu/proc", hosts + "v1-8cpu/proc", hosts + "v2-8cpu/proc",
          hosts + "v2-64cpu/proc"};
}

TEST(ParsePerCpuTable, IsWrittenBackByteForByte) {
  for (const std::string& directory : proc_directories()) {
    for (const char* file : {"/interrupts", "/softirqs"}) {
      const auto text = read_file(directory + file);
      ASSERT_TRUE(text) << directory;
      const auto table = parse_per_cpu_table(*text);
      ASSERT_TRUE(table) << directory << file;
      EXPECT_EQ(written_back(*table), *text);
    }
  }
}

TEST(ParsePerCpuTable, RowsOfNoCpuHaveOneCount) {
  const auto table = parse_per_cpu_table(
      "           CPU1       CPU5       \n"
      "  0:         22          0   IO-APIC   2-edge      timer\n"
      "LOC: 12345678901          7   Local timer interrupts\n"
      "ERR:          3\n");
  ASSERT_TRUE(table);
  EXPECT_EQ(table->cpus, (std::vector<unsigned>{1, 5}));
  ASSERT_EQ(table->rows.size(), 3u);
  EXPECT_EQ(table->rows[0].label, "  0:");
  EXPECT_EQ(table->rows[0].counts, (std::vector<std::uint64_t>{22, 0}));
  EXPECT_EQ(table->rows[0].rest, "   IO-APIC   2-edge      timer");
  EXPECT_EQ(table->rows[1].counts[0], 12345678901u);
  EXPECT_EQ(table->rows[2].counts, (std::vector<std::uint64_t>{3}));
  EXPECT_EQ(table->rows[2].rest, "");
  for (const char* text : {"", "\n", "CPU\n", "CPUx\n", "CPU99999\n"})
    EXPECT_FALSE(parse_per_cpu_table(text)) << text;
}

TEST(ParseSchedstat, IsWrittenBackByteForByte) {
  for (const std::string& directory : proc_directories()) {
    const auto text = read_optional_at(AT_FDCWD, directory + "/schedstat");
    ASSERT_TRUE(text);
    if (!*text) continue;  // CONFIG_SCHEDSTATS is off
    const auto schedstat = parse_schedstat(**text);
    ASSERT_TRUE(schedstat) << directory;
    EXPECT_EQ(written_back(*schedstat), **text);
  }
}

TEST(ParseSchedstat, DomainsOfBothVersions) {
  const auto old = parse_schedstat(
      "version 15\ntimestamp 42\ncpu0 0 1 2\ndomain0 ff 0 7\ndomain1 ffffffff,00000fff 1\n");
  ASSERT_TRUE(old);
  EXPECT_EQ(old->header, "version 15\ntimestamp 42\n");
  ASSERT_EQ(old->cpus.size(), 1u);
  EXPECT_EQ(old->cpus[0].rest, " 0 1 2");
  ASSERT_EQ(old->cpus[0].domains.size(), 2u);
  EXPECT_EQ(old->cpus[0].domains[0].name, "domain0");
  EXPECT_EQ(old->cpus[0].domains[1].mask, "ffffffff,00000fff");
  EXPECT_EQ(old->cpus[0].domains[1].rest, " 1");
  const std::string text = "version 17\ncpu3 0\ndomain0 MC ff 0 7\n";
  const auto recent = parse_schedstat(text);
  ASSERT_TRUE(recent);
  EXPECT_EQ(recent->cpus[0].domains[0].name, "domain0 MC");
  EXPECT_EQ(recent->cpus[0].domains[0].mask, "ff");
  EXPECT_EQ(written_back(*recent), text);
  EXPECT_FALSE(parse_schedstat("version 15\n"));
}

TEST(ParseDiskstats, KeepsEveryCount) {
  const auto disks = parse_diskstats(
      " 254       0 vda 4567 30 345678 1234 89 7 6543 99 0 1500 1333 1 2 3 4 5 6\n"
      "   8      17 sdb1 1 2 3 4 5 6 7 8 9 10 11\n");
  ASSERT_TRUE(disks);
  ASSERT_EQ(disks->size(), 2u);
  EXPECT_EQ((*disks)[0].major, 254u);
  EXPECT_EQ((*disks)[0].name, "vda");
  EXPECT_EQ((*disks)[0].counts.size(), 17u);
  EXPECT_EQ((*disks)[1].minor, 17u);
  EXPECT_EQ((*disks)[1].counts.back(), 11u);
  EXPECT_TRUE(parse_diskstats("")->empty());
  EXPECT_FALSE(parse_diskstats("x 0 vda 1\n"));
}

TEST(ParsePartitions, SkipsTheHeading) {
  const auto partitions = parse_partitions(
      "major minor  #blocks  name\n\n 254        0  268435456 vda\n   8        1       1024 "
      "sda1\n");
  ASSERT_TRUE(partitions);
  ASSERT_EQ(partitions->size(), 2u);
  EXPECT_EQ((*partitions)[0].blocks_kib, 268435456u);
  EXPECT_EQ((*partitions)[1].name, "sda1");
  EXPECT_TRUE(parse_partitions("")->empty());
  EXPECT_FALSE(parse_partitions("254 0 vda\n"));
}

TEST(ParseSlabinfo, TheHeadingIsKeptApart) {
  const std::string heading = "slabinfo - version: 2.1\n# name <active_objs>\n";
  const auto slabinfo = parse_slabinfo(heading + "dentry 1 2 3\n");
  ASSERT_TRUE(slabinfo);
  EXPECT_EQ(slabinfo->heading, heading);
  EXPECT_EQ(slabinfo->text, heading + "dentry 1 2 3\n");
  EXPECT_FALSE(parse_slabinfo("dentry 1 2 3\n"));
}

TEST(ParseCgroups, EveryController) {
  const auto controllers = parse_cgroups(
      "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t17\t1\nrdma\t0\t1\t0\n");
  ASSERT_TRUE(controllers);
  ASSERT_EQ(controllers->size(), 2u);
  EXPECT_EQ((*controllers)[0].name, "cpuset");
  EXPECT_EQ((*controllers)[0].hierarchy, 3u);
  EXPECT_EQ((*controllers)[0].cgroups, 17u);
  EXPECT_FALSE((*controllers)[1].enabled);
  EXPECT_FALSE(parse_cgroups("cpuset\t3\n"));
}

TEST(ParseZones, BothFiles) {
  const auto buddies = parse_buddyinfo(
      "Node 0, zone      DMA      1      0 \n"
      "Node 1, zone   Normal    546    508 \n");
  ASSERT_TRUE(buddies);
  EXPECT_EQ((*buddies)[1].node, 1u);
  EXPECT_EQ((*buddies)[1].zone, "Normal");
  EXPECT_EQ((*buddies)[1].free, (std::vector<std::uint64_t>{546, 508}));
  EXPECT_FALSE(parse_buddyinfo("Node x, zone DMA 1\n"));
  const auto zones = parse_zoneinfo(
      "Node 0, zone      DMA\n  per-node stats\n      nr_free 3\n"
      "Node 0, zone   Normal\n  pages free     11\n");
  ASSERT_TRUE(zones);
  ASSERT_EQ(zones->size(), 2u);
  EXPECT_EQ((*zones)[0].lines, (std::vector<std::string>{"  per-node stats", "      nr_free 3"}));
  EXPECT_EQ((*zones)[1].name, "Normal");
  EXPECT_FALSE(parse_zoneinfo("pages free 1\n"));
}

TEST(ParseVmstat, InTheKernelsOrder) {
  const auto vmstat = parse_vmstat("nr_free_pages 12\nnr_zone_inactive_anon 3\nbroken x\n");
  ASSERT_TRUE(vmstat);
  EXPECT_EQ(*vmstat, (Vmstat{{"nr_free_pages", 12}, {"nr_zone_inactive_anon", 3}}));
  EXPECT_FALSE(parse_vmstat(""));
}

TEST(HostReader, ReadsTablesOnlyWhenAsked) {
  auto reader = Reader::open();
  ASSERT_TRUE(reader);
  const auto some = (*reader)->read(kVmstat | kInterrupts);
  ASSERT_TRUE(some) << some.error().message();
  EXPECT_TRUE(some->vmstat && some->interrupts);
  EXPECT_FALSE(some->diskstats || some->softirqs || some->zoneinfo);
  const auto all = (*reader)->read(kDiskstats | kPartitions | kInterrupts | kSoftirqs | kSchedstat |
                                   kZoneinfo | kBuddyinfo | kCpus);
  ASSERT_TRUE(all) << all.error().message();
  EXPECT_FALSE(all->zoneinfo->empty());
  EXPECT_EQ(all->interrupts->cpus, all->cpus->online.ids());
  EXPECT_EQ(all->softirqs->cpus, all->cpus->possible.ids());
}

}  // namespace
}  // namespace umwelt::host
