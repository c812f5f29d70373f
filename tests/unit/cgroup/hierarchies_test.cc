// SPDX-License-Identifier: Apache-2.0
#include "cgroup/hierarchies.h"

#include <gtest/gtest.h>

namespace umwelt::cgroup {
namespace {

TEST(Hierarchies, ControllersMountedApartAndTogether) {
  const auto found = Hierarchies::parse(
      "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
      "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:5 - tmpfs tmpfs rw,mode=755\n"
      "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:6 master:1 - cgroup cgroup "
      "rw,cpu,cpuacct\n"
      "33 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset,clone_children,noprefix\n"
      "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
      "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->v1,
            (std::map<std::string, std::string>{{"cpu", "/sys/fs/cgroup/cpu,cpuacct"},
                                                {"cpuacct", "/sys/fs/cgroup/cpu,cpuacct"},
                                                {"cpuset", "/sys/fs/cgroup/cpuset"},
                                                {"name=systemd", "/sys/fs/cgroup/systemd"}}));
  EXPECT_EQ(found->v2, "/sys/fs/cgroup/unified");
}

TEST(Hierarchies, OnlyRootsCountAndTheFirstWins) {
  const auto found = Hierarchies::parse(
      "1 2 0:1 /docker/a /here rw - cgroup2 cgroup2 rw\n"
      "1 2 0:1 /../.. /there rw - cgroup2 cgroup2 rw\n"
      "1 2 0:1 / /with\\040blank rw - cgroup2 cgroup2 rw\n"
      "1 2 0:1 / /second rw - cgroup2 cgroup2 rw\n"
      "1 2 0:2 / /memory rw - cgroup cgroup rw,memory\n"
      "1 2 0:2 / /memory2 rw - cgroup cgroup rw,memory\n");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->v2, "/with blank");
  EXPECT_EQ(found->v1.at("memory"), "/memory");
}

TEST(Hierarchies, NoneOrGarbage) {
  for (const char* text : {"", "\n\n", "1 2 3", "1 2 0:1 / /x rw - ", "1 2 0:1 / /x rw",
                           "1 2 0:1 / relative rw - cgroup2 cgroup2 rw"})
    EXPECT_FALSE(Hierarchies::parse(text)) << text;
  EXPECT_TRUE(Hierarchies::read());
}

TEST(ProcCgroup, EachControllerByItsOwnPath) {
  const auto paths = parse_proc_cgroup(
      "9:name=systemd:/\n4:memory:/a/b\n3:cpu,cpuacct:/with:colon\n0::/user slice\n");
  ASSERT_TRUE(paths);
  EXPECT_EQ(*paths, (Paths{{"name=systemd", "/"},
                           {"memory", "/a/b"},
                           {"cpu", "/with:colon"},
                           {"cpuacct", "/with:colon"},
                           {"", "/user slice"}}));
}

TEST(ProcCgroup, RefusesWhatLeadsElsewhere) {
  for (const char* text : {"0::/../other", "0::/..", "0::/a/../b", "0::/a/./b", "0::relative",
                           "0::", "0:", "x::/a", "", "4:memory"}) {
    const auto paths = parse_proc_cgroup(text);
    ASSERT_FALSE(paths) << text;
    EXPECT_EQ(paths.error().code, EINVAL);
  }
  EXPECT_FALSE(parse_proc_cgroup("0::/" + std::string(5000, 'a')));
  EXPECT_FALSE(parse_proc_cgroup(std::string_view("0::/a\0b", 7)));
  EXPECT_TRUE(parse_proc_cgroup("0::/..a/b../..."));
}

}  // namespace
}  // namespace umwelt::cgroup
