// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "make.h"

namespace umwelt::view {
namespace {

constexpr char kHeading[] = "major minor  #blocks  name\n\n";

host::Facts host_with_disks() {
  host::Facts facts = make_host();
  const auto counts = [](std::uint64_t first, std::size_t columns) {
    std::vector<std::uint64_t> out;
    for (std::size_t i = 0; i < columns; ++i) out.push_back(first + i);
    return out;
  };
  facts.diskstats = std::make_shared<std::vector<host::Disk>>(
      std::vector<host::Disk>{{7, 3, "loop3", counts(70, 17)},
                              {254, 0, "vda", counts(7700, 17)},
                              {254, 1, "vda1", counts(7800, 11)}});
  facts.partitions = std::make_shared<std::vector<host::Partition>>(std::vector<host::Partition>{
      {7, 3, 1048576, "loop3"}, {254, 0, 268435456, "vda"}, {254, 1, 268434432, "vda1"}});
  return facts;
}

cgroup::State state_with_io() {
  cgroup::State state = make_state();
  state.io =
      std::vector<cgroup::DeviceIo>{{.major = 254,
                                     .minor = 0,
                                     .read_bytes = 8192,
                                     .written_bytes = 1024,
                                     .discarded_bytes = 512,
                                     .reads = 2,
                                     .writes = 1,
                                     .discards = 1},
                                    {.major = 259, .minor = 9, .reads = 5}};  // a device that went
  return state;
}

TEST(Disks, OfASharedDeviceWhatTheCgroupDid) {
  const Resources r = resources(host_with_disks(), state_with_io(), make_identity(), {});
  EXPECT_EQ(render_diskstats(r), " 254       0 vda 2 0 16 0 1 0 2 0 0 0 0 1 0 1 0 0 0\n");
  EXPECT_EQ(render_partitions(r), std::string(kHeading) + " 254        0  268435456 vda\n");
}

TEST(Disks, NoneBeforeTheFirstInputOrOutput) {
  cgroup::State state = make_state();
  for (const bool listed : {false, true}) {
    if (listed) state.io = {{.major = 254, .minor = 0}};
    const Resources r = resources(host_with_disks(), state, make_identity(), {});
    EXPECT_EQ(render_diskstats(r), "");
    EXPECT_EQ(render_partitions(r), kHeading);
  }
}

TEST(Disks, AnOlderKernelsColumns) {
  cgroup::State state = state_with_io();
  state.io->front().minor = 1;
  const Resources r = resources(host_with_disks(), state, make_identity(), {});
  EXPECT_EQ(render_diskstats(r), " 254       1 vda1 2 0 16 0 1 0 2 0 0 0 0\n");
}

TEST(Disks, ADiskOfItsOwnHasItsNameAndTheHostsCounts) {
  Identity identity = make_identity();
  identity.disk = Disk{7, 3, "vda"};
  const Resources r = resources(host_with_disks(), state_with_io(), identity, {});
  EXPECT_EQ(render_diskstats(r),
            "   7       3 vda 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86\n");
  EXPECT_EQ(render_partitions(r), std::string(kHeading) + "   7        3    1048576 vda\n");
  identity.disk->name.clear();
  const Resources unnamed = resources(host_with_disks(), state_with_io(), identity, {});
  EXPECT_EQ(render_partitions(unnamed), std::string(kHeading) + "   7        3    1048576 loop3\n");
}

TEST(Disks, ADiskOfItsOwnHasNothingOfWhoHadTheDeviceBefore) {
  Identity identity = make_identity();
  identity.disk = Disk{7, 3, "", {70, 70, 70, 0, 0, 0, 0, 0, 78, 0, 99}};
  const Resources r = resources(host_with_disks(), state_with_io(), identity, {});
  EXPECT_EQ(render_diskstats(r),
            "   7       3 loop3 0 1 2 73 74 75 76 77 78 79 0 81 82 83 84 85 86\n");
}

TEST(Disks, TheHostHasAllOfThem) {
  Identity identity = make_identity();
  identity.limited = false;
  const Resources r = resources(host_with_disks(), make_state(), identity, {});
  EXPECT_EQ(
      render_diskstats(r),
      "   7       3 loop3 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86\n"
      " 254       0 vda 7700 7701 7702 7703 7704 7705 7706 7707 7708 7709 7710 7711 7712 7713 "
      "7714 7715 7716\n"
      " 254       1 vda1 7800 7801 7802 7803 7804 7805 7806 7807 7808 7809 7810\n");
}

}  // namespace
}  // namespace umwelt::view
