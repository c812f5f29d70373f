// SPDX-License-Identifier: Apache-2.0
// Block I/O, pressure and huge pages.
#include <gtest/gtest.h>

#include "cgroup/hugetlb.h"
#include "cgroup/parse.h"
#include "cgroup/reader.h"
#include "tree.h"

namespace umwelt::cgroup {
namespace {

constexpr unsigned kAll = kIo | kPressure | kHugetlb;

TEST(ParseIoStat, EveryDeviceOnce) {
  const auto devices = parse_io_stat(
      "254:0 rbytes=90112 wbytes=4096 rios=22 wios=1 dbytes=8192 dios=3 cost.vrate=100.00\n"
      "8:16 \n7:0 rbytes=1\n");
  ASSERT_TRUE(devices) << devices.error().message();
  ASSERT_EQ(devices->size(), 3u);
  EXPECT_EQ((*devices)[0].major, 7u);
  EXPECT_EQ((*devices)[0].read_bytes, 1u);
  EXPECT_EQ((*devices)[1].minor, 16u);
  const DeviceIo& vda = (*devices)[2];
  EXPECT_EQ(vda.read_bytes, 90112u);
  EXPECT_EQ(vda.written_bytes, 4096u);
  EXPECT_EQ(vda.reads, 22u);
  EXPECT_EQ(vda.writes, 1u);
  EXPECT_EQ(vda.discarded_bytes, 8192u);
  EXPECT_EQ(vda.discards, 3u);
  EXPECT_TRUE(parse_io_stat("")->empty());
  for (const char* text : {"vda rbytes=1", "254:x rbytes=1", "254:0 rbytes=", "254:0 rbytes",
                           "99999999999:0 rbytes=1"})
    EXPECT_FALSE(parse_io_stat(text)) << text;
}

TEST(ParseIoStat, CountsAreOfTheDeviceBeforeThem) {
  const auto devices = parse_io_stat(
      "7:7 7:6 7:4 rbytes=28672 rios=22\n"
      "(unknown) rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"
      "8:0 (unknown) rbytes=9 rios=9\n8:16 8:32 ");
  ASSERT_TRUE(devices) << devices.error().message();
  ASSERT_EQ(devices->size(), 6u);
  for (const DeviceIo& io : *devices) {
    const bool read = io.major == 7 && io.minor == 4;
    EXPECT_EQ(io.read_bytes, read ? 28672u : 0u) << io.major << ":" << io.minor;
    EXPECT_EQ(io.reads, read ? 22u : 0u) << io.major << ":" << io.minor;
  }
}

TEST(ParseBlkio, BothFilesOfOneDevice) {
  const auto devices = parse_blkio(
      "254:0 Read 8192\n254:0 Write 4096\n254:0 Sync 12288\n254:0 Async 0\n254:0 Discard 512\n"
      "254:0 Total 12800\n7:1 Read 1\nTotal 12801\n",
      "254:0 Read 2\n254:0 Write 1\n254:0 Total 3\nTotal 3\n");
  ASSERT_TRUE(devices);
  ASSERT_EQ(devices->size(), 2u);
  EXPECT_EQ((*devices)[0].major, 7u);
  EXPECT_EQ((*devices)[1].read_bytes, 8192u);
  EXPECT_EQ((*devices)[1].written_bytes, 4096u);
  EXPECT_EQ((*devices)[1].discarded_bytes, 512u);
  EXPECT_EQ((*devices)[1].reads, 2u);
  EXPECT_EQ((*devices)[1].writes, 1u);
  EXPECT_TRUE(parse_blkio("Total 0\n", "Total 0\n")->empty());
  EXPECT_FALSE(parse_blkio("254:0 Read x\n", ""));
}

TEST(ParsePressureSome, ItsTotal) {
  EXPECT_EQ(parse_pressure_some("some avg10=0.00 avg60=0.00 avg300=0.00 total=4711\n"
                                "full avg10=0.00 avg60=0.00 avg300=0.00 total=12\n"),
            4711u);
  for (const char* text : {"", "full total=1\n", "some avg10=0.00\n", "some total=x\n"})
    EXPECT_EQ(parse_pressure_some(text), std::nullopt) << text;
}

TEST(ParseHugePageDirectory, SizesInBytes) {
  EXPECT_EQ(parse_huge_page_directory("hugepages-2048kB"), 2u << 20);
  EXPECT_EQ(parse_huge_page_directory("hugepages-1048576kB"), 1u << 30);
  for (const char* name : {".", "hugepages-", "hugepages-kB", "hugepages-0kB", "hugepages-2MB",
                           "hugepages-18446744073709551615kB"})
    EXPECT_EQ(parse_huge_page_directory(name), std::nullopt) << name;
}

TEST(HugetlbFile, IsNamedAsTheKernelDoes) {
  EXPECT_EQ(hugetlb_file(64 << 10, false, true), "hugetlb.64KB.max");
  EXPECT_EQ(hugetlb_file(2 << 20, true, true), "hugetlb.2MB.current");
  EXPECT_EQ(hugetlb_file(1 << 30, false, false), "hugetlb.1GB.limit_in_bytes");
  EXPECT_EQ(hugetlb_file(1 << 30, true, false), "hugetlb.1GB.usage_in_bytes");
}

TEST(V1Tree, TheRootsInputAndOutputIsEverybodys) {
  Tree tree;
  Hierarchies hierarchies;
  hierarchies.v1 = {{"blkio", "/blkio"}};
  for (const char* folder : {"blkio/", "blkio/a/"}) {
    tree.write(std::string(folder) + "blkio.throttle.io_service_bytes_recursive", "7:0 Read 1\n");
    tree.write(std::string(folder) + "blkio.throttle.io_serviced_recursive", "7:0 Read 1\n");
  }
  for (const auto& [path, devices] : {std::pair{"/", 0U}, std::pair{"/a", 1U}}) {
    auto reader = Reader::open(hierarchies, {{"blkio", path}}, tree.root());
    ASSERT_TRUE(reader) << reader.error().message();
    EXPECT_EQ(reader->read(kIo)->io->size(), devices) << path;
  }
}

TEST(V2Tree, IoPressureAndHugePages) {
  Tree tree;
  Hierarchies hierarchies;
  hierarchies.v2 = "/cg";
  tree.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0\n");
  tree.write("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "0\n");
  tree.write("cg/p/hugetlb.2MB.max", "4194304\n");
  tree.write("cg/p/a/hugetlb.2MB.max", "8388608\n");
  tree.write("cg/p/hugetlb.2MB.current", "2097152\n");
  tree.write("cg/p/a/hugetlb.2MB.current", "0\n");
  tree.write("cg/p/a/hugetlb.1GB.max", "max\n");
  tree.write("cg/p/a/hugetlb.1GB.current", "0\n");
  tree.write("cg/p/a/io.stat", "254:0 rbytes=5 rios=1\n");
  const std::string pressure = "some avg10=1.00 avg60=0.00 avg300=0.00 total=7\n";
  tree.write("cg/p/a/memory.pressure", pressure);
  auto reader = Reader::open(hierarchies, {{"", "/p/a"}}, tree.root());
  ASSERT_TRUE(reader) << reader.error().message();
  const auto state = reader->read(kAll);
  ASSERT_TRUE(state) << state.error().message();
  EXPECT_EQ(state->limits.hugetlb, (std::vector<HugetlbLimit>{{2 << 20, 4194304}}));
  ASSERT_EQ(state->hugetlb->size(), 2u);
  EXPECT_EQ((*state->hugetlb)[0].usage_bytes, 2097152u);
  ASSERT_EQ(state->io->size(), 1u);
  EXPECT_EQ((*state->io)[0].read_bytes, 5u);
  EXPECT_EQ(state->pressure->memory, pressure);
  EXPECT_EQ(state->pressure->cpu, std::nullopt);
  EXPECT_TRUE(reader->open_pressure("memory"));
  EXPECT_EQ(reader->open_pressure("cpu").error().code, ENOENT);
  EXPECT_EQ(reader->open_pressure("../p/memory").error().code, EINVAL);
  const auto files = reader->limit_files().value();
  EXPECT_EQ(std::count(files.begin(), files.end(), tree.root() + "/cg/p/hugetlb.2MB.max"), 1);
}

TEST(V2Tree, HugePagesOfTheCgroupThatLimitsThem) {
  Tree tree;
  Hierarchies hierarchies;
  hierarchies.v2 = "/cg";
  tree.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0\n");
  tree.write("cg/p/hugetlb.2MB.max", "8388608\n");
  tree.write("cg/p/hugetlb.2MB.current", "6291456\n");
  tree.write("cg/p/a/hugetlb.2MB.max", "8388608\n");  // of equal ones the topmost
  tree.write("cg/p/a/hugetlb.2MB.current", "2097152\n");
  auto reader = Reader::open(hierarchies, {{"", "/p/a"}}, tree.root());
  ASSERT_TRUE(reader) << reader.error().message();
  EXPECT_EQ(reader->read(kHugetlb)->hugetlb->at(0).usage_bytes, 6291456u);
  tree.write("cg/p/a/hugetlb.2MB.max", "4194304\n");
  ASSERT_TRUE(reader->read_limits(CpuSet::range(0, 1)));
  EXPECT_EQ(reader->read(kHugetlb)->hugetlb->at(0).usage_bytes, 2097152u);
}

TEST(V1Tree, IoAndHugePages) {
  Tree tree;
  Hierarchies hierarchies;
  hierarchies.v1 = {{"blkio", "/blkio"}, {"hugetlb", "/hugetlb"}};
  tree.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0\n");
  tree.write("hugetlb/b/hugetlb.2MB.limit_in_bytes", "9223372036852678656\n");
  tree.write("hugetlb/b/hugetlb.2MB.usage_in_bytes", "4194304\n");
  tree.write("blkio/a/blkio.throttle.io_service_bytes_recursive", "8:0 Write 9\nTotal 9\n");
  auto reader = Reader::open(hierarchies, {{"blkio", "/a"}, {"hugetlb", "/b"}}, tree.root());
  ASSERT_TRUE(reader) << reader.error().message();
  const auto state = reader->read(kAll);
  ASSERT_TRUE(state) << state.error().message();
  EXPECT_TRUE(state->limits.hugetlb.empty());
  EXPECT_EQ((*state->hugetlb)[0].usage_bytes, 4194304u);
  EXPECT_EQ((*state->io)[0].written_bytes, 9u);
  EXPECT_EQ(state->pressure->cpu, std::nullopt);
  EXPECT_EQ(reader->open_pressure("cpu").error().code, ENOENT);
  // There are no tasks, memory or CPU to tell of, which is no error.
  EXPECT_TRUE(reader->read(kMemory | kCpuTime | kTasks));
}

}  // namespace
}  // namespace umwelt::cgroup
