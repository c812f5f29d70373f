// SPDX-License-Identifier: Apache-2.0
#include "host/parse.h"

#include <gtest/gtest.h>

#include <string>

#include "base/file.h"

namespace umwelt::host {
namespace {

std::string written_back(const Cpuinfo& info) {
  std::string text = info.header;
  for (const CpuinfoBlock& block : info.blocks) {
    for (const CpuinfoField& field : block.fields)
      text += field.key + field.separator + field.value + "\n";
    text += block.end;
  }
  return text + info.trailer;
}

constexpr char kX86[] =
    "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) @ 2.30GHz: x\n"
    "physical id\t: 0\npower management:\n\n"
    "processor\t: 5\nvendor_id\t: GenuineIntel\npower management:\n\n";

constexpr char kArm[] =
    "processor\t: 0\nmodel name\t: ARMv7 Processor rev 4 (v7l)\nBogoMIPS\t: 38.40\n"
    "Features\t: half thumb fastmult vfp \n\n"
    "processor\t: 1\nBogoMIPS\t: 38.40\n\n"
    "Hardware\t: BCM2835\nRevision\t: a020d3\nSerial\t\t: 00000000abcdef01\n";

constexpr char kPower[] =
    "processor\t: 0\ncpu\t\t: POWER9 (architected), altivec supported\nclock\t\t: "
    "2200.000000MHz\n\n"
    "processor\t: 1\ncpu\t\t: POWER9 (architected), altivec supported\n\n"
    "timebase\t: 512000000\nplatform\t: pSeries\n\nmodel\t\t: IBM,8375-42A\n";

constexpr char kS390[] =
    "vendor_id       : IBM/S390\n# processors    : 2\nbogomips per cpu: 3241.00\n"
    "features\t: esan3 zarch stfle \nfacilities      : 0 1 2 3\n"
    "processor 0: version = 00,  identification = 2B8598,  machine = 3906\n"
    "processor 1: version = 00,  identification = 2B8598,  machine = 3906\n"
    "\ncpu number      : 0\nphysical id     : 0\ncpu MHz static  : 5208\n"
    "\ncpu number      : 1\nphysical id     : 0\ncpu MHz static  : 5208\n";

TEST(ParseCpuinfo, SplitsBlocksAndFields) {
  const auto info = parse_cpuinfo(kX86);
  ASSERT_TRUE(info);
  ASSERT_EQ(info->blocks.size(), 2u);
  EXPECT_EQ(info->blocks[0].processor, 0u);
  EXPECT_EQ(info->blocks[1].processor, 5u);
  ASSERT_EQ(info->blocks[0].fields.size(), 5u);
  EXPECT_EQ(info->blocks[0].fields[2].key, "model name");
  EXPECT_EQ(info->blocks[0].fields[2].separator, "\t: ");
  EXPECT_EQ(info->blocks[0].fields[2].value, "Intel(R) Xeon(R) @ 2.30GHz: x");
  EXPECT_EQ(info->blocks[0].fields[4].key, "power management");
  EXPECT_EQ(info->blocks[0].fields[4].separator, ":");
  EXPECT_EQ(info->blocks[0].fields[4].value, "");
}

TEST(ParseCpuinfo, LinesOfNoCpuAreKeptApart) {
  const auto arm = parse_cpuinfo(kArm);
  ASSERT_EQ(arm->blocks.size(), 2u);
  EXPECT_EQ(arm->trailer,
            "Hardware\t: BCM2835\nRevision\t: a020d3\nSerial\t\t: 00000000abcdef01\n");
  const auto power = parse_cpuinfo(kPower);
  ASSERT_EQ(power->blocks.size(), 2u);
  EXPECT_TRUE(power->trailer.starts_with("timebase"));
  const auto s390 = parse_cpuinfo(kS390);
  ASSERT_EQ(s390->blocks.size(), 2u);
  EXPECT_TRUE(s390->header.starts_with("vendor_id"));
  EXPECT_EQ(s390->blocks[1].processor, 1u);
  EXPECT_EQ(s390->trailer, "");
}

TEST(ParseCpuinfo, IsWrittenBackByteForByte) {
  for (const char* text : {kX86, kArm, kPower, kS390, "", "\n\n", "no CPU at all\n"})
    EXPECT_EQ(written_back(*parse_cpuinfo(text)), text);
  // The clock of a CPU may change between two reads, so the text is read once.
  const auto own = read_file("/proc/cpuinfo");
  ASSERT_TRUE(own);
  EXPECT_EQ(written_back(*parse_cpuinfo(*own)), *own);
  EXPECT_FALSE(parse_cpuinfo(*own)->blocks.empty());
}

TEST(ParseMeminfo, TellsBytesFromNumbers) {
  const auto info = parse_meminfo(
      "MemTotal:       24684092 kB\nHugePages_Total:       3\nActive(anon):       1580 kB\n"
      "broken\nworse: x kB\nVmallocTotal:   34359738367 kB\n");
  ASSERT_TRUE(info);
  ASSERT_EQ(info->rows.size(), 4u);
  EXPECT_EQ(info->get("MemTotal"), 24684092ULL * 1024);
  EXPECT_EQ(info->get("HugePages_Total"), 3u);
  EXPECT_FALSE(info->rows[1].kib);
  EXPECT_EQ(info->get("Active(anon)"), 1580u * 1024);
  EXPECT_EQ(info->get("Active"), std::nullopt);
  EXPECT_EQ(info->get("VmallocTotal"), 34359738367ULL * 1024);
  EXPECT_FALSE(parse_meminfo(""));
}

TEST(ParseStat, ReadsEveryLine) {
  const auto stat = parse_stat(
      "cpu  6923 1 2777 245066 532 2 57 9 3 4\ncpu0 2291 0 965 124382 17 0 7 2 0 0\n"
      "cpu511 4631 0 1812 120684 514 0 49 7 0 0\nintr 223964 0 0 7\nctxt 454329\n"
      "btime 1795372306\nprocesses 7750\nprocs_running 2\nprocs_blocked 1\n"
      "softirq 165242 0 17851 4\n");
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->total.user, 6923u);
  EXPECT_EQ(stat->total.guest_nice, 4u);
  ASSERT_EQ(stat->cpus.size(), 2u);
  EXPECT_EQ(stat->cpus[1].first, 511u);
  EXPECT_EQ(stat->cpus[1].second.steal, 7u);
  EXPECT_EQ(stat->intr, 223964u);
  EXPECT_EQ(stat->intr_columns, 3u);
  EXPECT_EQ(stat->softirq, 165242u);
  EXPECT_EQ(stat->softirq_columns, 3u);
  EXPECT_EQ(stat->ctxt, 454329u);
  EXPECT_EQ(stat->btime, 1795372306u);
  EXPECT_EQ(stat->processes, 7750u);
  EXPECT_EQ(stat->procs_running, 2u);
  EXPECT_EQ(stat->procs_blocked, 1u);
  EXPECT_FALSE(parse_stat("ctxt 1\n"));
}

TEST(ParseSwaps, ReadsEscapedNamesAndLargeSizes) {
  const auto swaps = parse_swaps(
      "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
      "/dev/vdb                                partition\t1234567890123\t4\t\t-2\n"
      "/a\\040b\\134c                            file\t\t1024\t\t0\t\t5\n");
  ASSERT_TRUE(swaps);
  ASSERT_EQ(swaps->size(), 2u);
  EXPECT_EQ((*swaps)[0].filename, "/dev/vdb");
  EXPECT_EQ((*swaps)[0].size_bytes, 1234567890123ULL * 1024);
  EXPECT_EQ((*swaps)[0].used_bytes, 4096u);
  EXPECT_EQ((*swaps)[0].priority, -2);
  EXPECT_EQ((*swaps)[1].filename, "/a b\\c");
  EXPECT_EQ((*swaps)[1].type, "file");
  EXPECT_TRUE(parse_swaps("")->empty());
  EXPECT_FALSE(parse_swaps("heading\n/dev/vdb partition\n"));
}

TEST(ParseUptime, IsExact) {
  const auto uptime = parse_uptime("1279.60 2450.07\n");
  ASSERT_TRUE(uptime);
  EXPECT_EQ(uptime->uptime_ns, 1279600000000u);
  EXPECT_EQ(uptime->idle_ns, 2450070000000u);
  for (const char* text : {"", "1", "1 -1", "1. 2", "1.x 2", "1.1234567890 2"})
    EXPECT_FALSE(parse_uptime(text)) << text;
}

TEST(ParseLoadavg, ReadsAllFields) {
  const auto load = parse_loadavg("0.44 10.16 0.08 1/91 7750\n");
  ASSERT_TRUE(load);
  EXPECT_DOUBLE_EQ(load->load5, 10.16);
  EXPECT_EQ(load->running, 1u);
  EXPECT_EQ(load->total, 91u);
  EXPECT_EQ(load->last_pid, 7750u);
  for (const char* text : {"", "0.44 0.16 0.08 1 7750", "0.44 0.16 0.08 1/ 7750", "1 2 3 /4 5"})
    EXPECT_FALSE(parse_loadavg(text)) << text;
}

}  // namespace
}  // namespace umwelt::host
