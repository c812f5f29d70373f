// SPDX-License-Identifier: Apache-2.0
#include "intercept/status.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "unit/view/make.h"

namespace umwelt::intercept {
namespace {

// Of a host with CPUs 0-7.
view::Cpus cpus(std::string_view allowed, unsigned quota_percent = 0) {
  cgroup::Limits limits;
  limits.cpus = *CpuSet::parse(allowed);
  if (quota_percent != 0) limits.bandwidth = cgroup::Bandwidth{quota_percent * 1000, 100'000};
  view::Policy policy;
  policy.affinity_virtualised = true;
  return view::choose_cpus(*view::make_cpus(8, 4), limits, policy);
}

// Processes 4711 and 4700 of the host are 17 and 1 of the container.
const Names kNames = {
    .process = [](pid_t id) { return id == 4711   ? 17
                                     : id == 4700 ? 1
                                                  : 0; },
    .user = [](std::uint64_t id) { return id; },
    .group = [](std::uint64_t id) { return id + 100; },
};

constexpr std::string_view kHosts =
    "Name:\tpid: 4711\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t4711\nNgid:\t0\nPid:\t4711\n"
    "PPid:\t4700\nTracerPid:\t999\nUid:\t0\t7\t0\t0\nGid:\t0\t0\t0\t8\nGroups:\t0 1 "
    "\nNStgid:\t4711\t17\n"
    "NSpid:\t4711\t17\nNSpgid:\t4700\t1\nNSsid:\t0\t0\nVmRSS:\t    1234 kB\n"
    "Cpus_allowed:\t90\nCpus_allowed_list:\t4,7\nMems_allowed_list:\t0\n";

TEST(ProcessStatus, HasTheContainersCpusAndIds) {
  EXPECT_EQ(translate_status(kHosts, cpus("4,7"), kNames),
            "Name:\tpid: 4711\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t17\nNgid:\t0\nPid:\t17\n"
            "PPid:\t1\nTracerPid:\t0\nUid:\t0\t7\t0\t0\nGid:\t100\t100\t100\t108\nGroups:\t100 101 "
            "\nNStgid:\t17\nNSpid:\t17\n"
            "NSpgid:\t1\nNSsid:\t0\nVmRSS:\t    1234 kB\n"
            "Cpus_allowed:\t3\nCpus_allowed_list:\t0-1\nMems_allowed_list:\t0\n");
}

TEST(ProcessStatus, HasTheCpusThatAProgramNarrowedItselfTo) {
  EXPECT_EQ(translate_status("Cpus_allowed:\t80\nCpus_allowed_list:\t7\n", cpus("4,7"), kNames),
            "Cpus_allowed:\t2\nCpus_allowed_list:\t1\n");
}

TEST(ProcessStatus, HasNoMoreCpusThanAQuotaShows) {
  EXPECT_EQ(
      translate_status("Cpus_allowed:\tf0\nCpus_allowed_list:\t4-7\n", cpus("4-7", 150), kNames),
      "Cpus_allowed:\t3\nCpus_allowed_list:\t0-1\n");
}

// Every line of this kernel, but for those of CPUs, is as a process reads it.
TEST(ProcessStatus, IsTheKernelsOwnWhereNothingDiffers) {
  const auto mine = read_file("/proc/self/status");
  const auto made = process_status(::getpid(), cpus("0-7"));
  ASSERT_TRUE(mine && made);
  EXPECT_EQ(made->substr(0, made->find("VmPeak")), mine->substr(0, mine->find("VmPeak")));
  EXPECT_EQ(std::count(made->begin(), made->end(), '\n'),
            std::count(mine->begin(), mine->end(), '\n'));
}

TEST(ProcessStatus, HasTheIdsOfAUserNamespace) {
  constexpr std::string_view kMap =
      "         0     100000      65536\n     70000          0          1\n";
  EXPECT_EQ(translate_id(kMap, 100000), 0U);
  EXPECT_EQ(translate_id(kMap, 165535), 65535U);
  EXPECT_EQ(translate_id(kMap, 165536), 65534U);
  EXPECT_EQ(translate_id(kMap, 0), 70000U);
  EXPECT_EQ(translate_id(kMap, 1), 65534U);
  EXPECT_EQ(translate_id("", 0), 65534U);
}

TEST(ProcessStatus, OfNobody) {
  const auto none = process_status(99'999'999, cpus("0-7"));
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ESRCH);
}

TEST(StatusName, OnlyOneSpelling) {
  EXPECT_EQ(status_name(17), "process17");
  EXPECT_EQ(parse_status_name("process17"), 17);
  EXPECT_EQ(parse_status_name("process4194304"), 4194304);
  for (const char* name : {"process", "process0", "process017", "process4194305", "process-1",
                           "process1 ", "process1x", "Process1", "proc", "", "process99999999999"})
    EXPECT_FALSE(parse_status_name(name)) << name;
}

TEST(Libnuma, IsKnownByItsFirstCall) {
  Request request;
  request.call = Call::kSchedGetaffinity;
  request.args[1] = 512;
  EXPECT_TRUE(is_libnumas_first(request));
  request.args[0] = 1;
  EXPECT_FALSE(is_libnumas_first(request));
  request.args[0] = 0;
  request.args[1] = 128;  // cpu_set_t
  EXPECT_FALSE(is_libnumas_first(request));
}

}  // namespace
}  // namespace umwelt::intercept
