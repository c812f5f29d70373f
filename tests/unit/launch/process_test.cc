// SPDX-License-Identifier: Apache-2.0
#include "launch/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>

#include "launch/filesystems.h"
#include "launch/supervise.h"

namespace umwelt::launch {
namespace {

using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::Not;
using testing::StartsWith;

TEST(MakeEnvironment, Defaults) {
  EXPECT_THAT(make_environment({}, "box", "/root", false),
              ElementsAre("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                          "HOSTNAME=box", "HOME=/root"));
  EXPECT_THAT(make_environment({}, "box", "/", true), Contains("TERM=xterm"));
}

TEST(MakeEnvironment, TheLastOfAKeyCounts) {
  const auto environment =
      make_environment({"A=1", "HOME=/x", "A=2", "AB=3", "PATH="}, "box", "/root", false);
  EXPECT_THAT(environment, ElementsAre("PATH=", "HOSTNAME=box", "HOME=/x", "A=2", "AB=3"));
}

TEST(Execute, SaysWhyNot) {
  EXPECT_EQ(execute({"no-such-command"}, {"PATH=/usr/bin:/bin"}).code, ENOENT);
  EXPECT_EQ(execute({""}, {"PATH=/usr/bin:/bin"}).code, ENOENT);
  EXPECT_EQ(execute({"/no/such"}, {}).code, ENOENT);
  EXPECT_EQ(execute({"/etc"}, {}).code, EACCES);
  EXPECT_EQ(execute({"passwd"}, {"PATH=/etc:/nowhere"}).code, EACCES);
}

TEST(ParseCgroupMounts, V1TakesOnlyTheContainersOwn) {
  EXPECT_EQ(parse_cgroup_mounts("9:name=systemd:/umwelt/a\n"
                                "8:pids:/umwelt/a\n"
                                "5:net_cls,net_prio:/\n"
                                "4:cpu,cpuacct:/umwelt/a\n"
                                "3:cpuset:/umwelt/ab\n"
                                "broken\n"
                                "0::/umwelt/a\n",
                                "/umwelt/a"),
            (std::vector<CgroupMount>{{"pids"}, {"cpu,cpuacct"}}));
}

TEST(ParseCgroupMounts, PureV2) {
  EXPECT_EQ(parse_cgroup_mounts("0::/umwelt/a\n", "/umwelt/a"), (std::vector<CgroupMount>{{""}}));
  EXPECT_EQ(parse_cgroup_mounts("0::/\n", "/umwelt/a"), std::vector<CgroupMount>{});
  EXPECT_EQ(parse_cgroup_mounts("", "/umwelt/a"), std::vector<CgroupMount>{});
}

TEST(HandlesSignal, CaughtBlockedOrIgnored) {
  const auto status = [](const char* key) {
    return std::string(
               "Name:\tx\nSigPnd:\tffffffffffffffff\nSigBlk:\t0000000000000000\n"
               "SigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n") +
           key + ":\t0000000000004002\n";
  };
  for (const char* key : {"SigBlk", "SigIgn", "SigCgt"}) {
    EXPECT_TRUE(handles_signal(status(key), "running\n", 15)) << key;
    EXPECT_TRUE(handles_signal(status(key), "running\n", 2)) << key;
    EXPECT_FALSE(handles_signal(status(key), "running\n", 1)) << key;
  }
  EXPECT_FALSE(handles_signal("", "", 15));
  EXPECT_FALSE(handles_signal("SigCgt", "-1 0x0 0x0\n", 15));
  EXPECT_FALSE(handles_signal(status("Other"), "35 0x7ffe 0x0\n", 15));
}

TEST(HandlesSignal, WaitedFor) {
  EXPECT_TRUE(handles_signal("", std::to_string(SYS_rt_sigtimedwait) + " 0x7ffe 0x0\n", 15));
}

}  // namespace
}  // namespace umwelt::launch
