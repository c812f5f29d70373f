// SPDX-License-Identifier: Apache-2.0
#include "intercept/affinity.h"

#include <gtest/gtest.h>

#include "unit/view/make.h"

namespace umwelt::intercept {
namespace {

CpuSet set(std::string_view list) { return *CpuSet::parse(list); }

// Of a host with CPUs 0-7.
view::Cpus cpus(std::string_view allowed, std::uint64_t quota_percent = 0, bool dense = true) {
  cgroup::Limits limits;
  limits.cpus = set(allowed);
  if (quota_percent != 0) limits.bandwidth = cgroup::Bandwidth{quota_percent * 1000, 100'000};
  view::Policy policy;
  policy.affinity_virtualised = dense;
  return view::choose_cpus(*view::make_cpus(8, 4), limits, policy);
}

TEST(Affinity, ShowsTheContainersNumbers) {
  const view::Cpus two = cpus("4,7");
  EXPECT_EQ(shown_affinity(two, set("4,7")).list(), "0-1");
  EXPECT_EQ(shown_affinity(two, set("7")).list(), "1");
  EXPECT_EQ(shown_affinity(two, set("0-7")).list(), "0-1");
}

TEST(Affinity, AsksForPhysicalCpus) {
  const view::Cpus two = cpus("4,7");
  EXPECT_EQ(real_affinity(two, set("0")).list(), "4");
  EXPECT_EQ(real_affinity(two, set("1")).list(), "7");
  EXPECT_EQ(real_affinity(two, set("1,5,300")).list(), "7");
  EXPECT_TRUE(real_affinity(two, set("2-7")).empty());
  EXPECT_TRUE(real_affinity(two, CpuSet()).empty());
}

TEST(Affinity, AllCpusStayAllWhateverTheCpusetBecomes) {
  EXPECT_EQ(real_affinity(cpus("4,7"), set("0-63")), CpuSet::range(0, CpuSet::kMaxId));
}

TEST(Affinity, AQuotaLeavesTheSchedulerItsFreedom) {
  const view::Cpus two = cpus("1-6", 150);
  EXPECT_EQ(shown_affinity(two, set("1-6")).list(), "0-1");
  EXPECT_EQ(real_affinity(two, set("0-1")), CpuSet::range(0, CpuSet::kMaxId));
  EXPECT_EQ(real_affinity(two, set("1")).list(), "2");
  EXPECT_EQ(shown_affinity(two, set("2")).list(), "1");
}

TEST(Affinity, EveryMaskThatIsSetIsReadBack) {
  for (const std::uint64_t quota : {0, 50, 150, 350, 600}) {
    const view::Cpus some = cpus("1-3,5-7", quota);
    for (unsigned bits = 1; bits < 1U << some.count(); ++bits) {
      CpuSet asked;
      for (unsigned id = 0; id < some.count(); ++id)
        if ((bits >> id & 1) != 0) asked.set(id);
      const CpuSet kernel = real_affinity(some, asked) & some.allowed;  // what the cpuset leaves
      EXPECT_EQ(shown_affinity(some, kernel), asked) << quota << ' ' << asked.list();
    }
  }
}

TEST(Affinity, ACpuThatIsNotShownAnyMoreIsAsIfItWereUnplugged) {
  EXPECT_EQ(shown_affinity(cpus("1-6", 150), set("5")).list(), "0-1");
}

TEST(Affinity, RunsOnAShownCpu) {
  const view::Cpus two = cpus("4,7");
  EXPECT_EQ(shown_cpu(two, set("4,7"), 7), 1U);
  EXPECT_EQ(shown_cpu(two, set("4,7"), 4), 0U);
  const view::Cpus quota = cpus("1-6", 150);
  for (unsigned physical = 1; physical <= 6; ++physical)
    EXPECT_LT(shown_cpu(quota, set("1-6"), physical), 2U);
  EXPECT_EQ(shown_cpu(quota, set("2"), 2), 1U);
}

TEST(Affinity, HostNumbersAreKept) {
  const view::Cpus host = cpus("4,7", 0, false);
  EXPECT_EQ(shown_affinity(host, set("7")).list(), "7");
  EXPECT_EQ(real_affinity(host, set("0,4")).list(), "4");
  EXPECT_EQ(mask_size(host, CpuSet::range(0, 15), 8).nr_cpu_ids, 16U);  // possible
}

TEST(Affinity, SizesAsTheKernelHasThem) {
  using Size = std::optional<std::size_t>;
  const auto of = [](unsigned n) { return MaskSize{n, (n + 63) / 64 * 8}; };
  EXPECT_EQ(getaffinity_bytes(of(2), 8, Layout::k64), Size(8));
  EXPECT_EQ(getaffinity_bytes(of(2), 128, Layout::k64), Size(8));
  EXPECT_EQ(getaffinity_bytes(of(65), 128, Layout::k64), Size(16));
  EXPECT_EQ(getaffinity_bytes(of(65), 8, Layout::k64), Size());
  EXPECT_EQ(getaffinity_bytes(of(2), 0, Layout::k64), Size());
  EXPECT_EQ(getaffinity_bytes(of(2), 12, Layout::k64), Size());
  EXPECT_EQ(getaffinity_bytes(of(2), 0x20000000, Layout::k64), Size());  // 2^32 bits
  EXPECT_EQ(getaffinity_bytes(of(2), 4, Layout::k32), Size(4));
  EXPECT_EQ(getaffinity_bytes(of(2), 12, Layout::k32), Size(8));
  EXPECT_EQ(setaffinity_bytes(of(2), 0, Layout::k64), 0U);
  EXPECT_EQ(setaffinity_bytes(of(2), 3, Layout::k64), 3U);
  EXPECT_EQ(setaffinity_bytes(of(2), 3, Layout::k32), 4U);
  EXPECT_EQ(setaffinity_bytes(of(2), 4096, Layout::k64), 8U);
}

TEST(Affinity, MasksAreAsLongAsThisKernelHasThem) {
  const view::Cpus two = cpus("4,7");
  EXPECT_EQ(mask_size(two, CpuSet::range(0, 7), 8).bytes, 8U);
  EXPECT_EQ(mask_size(two, CpuSet::range(0, 255), 32).bytes, 8U);
  EXPECT_EQ(mask_size(two, CpuSet::range(0, 7), 32).bytes, 32U);  // built for 256 CPUs
  EXPECT_EQ(mask_size(two, CpuSet::range(0, 7), 32).nr_cpu_ids, 2U);
}

TEST(Affinity, BitmapsAreLittleEndian) {
  EXPECT_EQ(cpus_from_bytes(std::string_view("\x01\x80\x00\x10", 4)).list(), "0,15,28");
  EXPECT_EQ(cpus_to_bytes(set("0,15,28,99"), 4), std::string("\x01\x80\x00\x10", 4));
  EXPECT_EQ(cpus_to_bytes(CpuSet(), 2), std::string(2, '\0'));
}

}  // namespace
}  // namespace umwelt::intercept
