// SPDX-License-Identifier: Apache-2.0
#include "oci/discover.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "launch/propagation.h"
#include "launch/view_groups.h"
#include "oci/hook.h"
#include "view/files.h"

namespace umwelt::oci {
namespace {

TEST(Discover, RecognizesCgroups) {
  const std::string hex(64, 'a');
  const struct {
    std::string path, runtime, id;
  } kCases[] = {
      {"/docker/" + hex, "docker", hex},
      {"/system.slice/docker-" + hex + ".scope", "docker", hex},
      {"/docker/" + hex + "/init.scope", "docker", hex},
      {"/libpod_parent/libpod-" + hex, "podman", hex},
      {"/machine.slice/libpod-" + hex + ".scope/container", "podman", hex},
      {"/default/box", "containerd", "box"},
      {"/kubepods.slice/x/cri-containerd-" + hex + ".scope", "containerd", hex},
      {"/kubepods/besteffort/pod1/" + hex, "containerd", hex},
      {"/kubepods.slice/crio-" + hex + ".scope", "cri-o", hex},
      {"/lxc.payload.web", "lxc", "web"},
      {"/umwelt/0123456789ab", "umwelt", "0123456789ab"},
  };
  for (const auto& test : kCases) {
    const Found found = recognize_cgroup(test.path);
    EXPECT_EQ(found.runtime, test.runtime) << test.path;
    EXPECT_EQ(found.id, test.id) << test.path;
  }
  for (const char* path :
       {"/", "/user.slice/user-0.slice/session-1.scope", "/system.slice/ssh.service",
        "/libpod_parent/conmon/x", "/lxc.monitor.web"})
    EXPECT_EQ(recognize_cgroup(path).runtime, "") << path;
}

TEST(Discover, ANameOfDigitsAloneIsNoProcessThatIsNotThere) {
  std::vector<std::string> asked;
  const auto found = find_container("2147483646", [&](const std::vector<std::string>& command) {
    asked.push_back(command.front());
    return command.front() == "podman" ? Result<std::string>(std::to_string(::getpid()) + "\n")
                                       : Result<std::string>(fail(0, "no"));
  });
  ASSERT_TRUE(found) << found.error().message();
  EXPECT_EQ(found->pid, ::getpid());
  EXPECT_EQ(asked, (std::vector<std::string>{"docker", "podman", "lxc-info", "machinectl"}));
}

TEST(Discover, RecordIds) {
  EXPECT_EQ(record_id("web"), "web");
  EXPECT_NE(record_id("a/b"), record_id("a_b"));
  for (const std::string& id : {std::string("a/../b"), std::string(200, 'x'), std::string("\n")})
    EXPECT_TRUE(container::valid_id(record_id(id))) << id;
}

TEST(Propagation, KnowsViewsByTheirType) {
  const auto groups = launch::parse_peer_groups(
      "22 27 0:21 /a/proc/stat /proc/stat ro shared:5 - fuse.umwelt umwelt ro\n"
      "23 27 0:22 /proc/stat /proc/stat rw - fuse.lxcfs lxcfs rw\n"
      "24 27 0:23 / /run rw - fuse.hanging umwelt rw\n"
      "25 27 0:24 / /fuse.umwelt rw - tmpfs fuse.umwelt rw\n");
  ASSERT_EQ(groups.views.size(), 2U);
  EXPECT_EQ(groups.views.at(22).below, 27U);
  EXPECT_EQ(groups.views.at(22).file, "0:21 /a/proc/stat");
  EXPECT_TRUE(groups.views.contains(23));
}

TEST(Propagation, ParsesPeerGroups) {
  const auto groups = launch::parse_peer_groups(
      "22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw\n"
      "23 27 0:22 / /sys rw,relatime master:7 propagate_from:2 - sysfs sysfs rw\n"
      "24 27 0:6 / /dev rw - devtmpfs shared:9 rw\n");
  EXPECT_EQ(groups.shared, (std::map<std::uint64_t, std::uint64_t>{{22, 5}}));
  EXPECT_EQ(groups.receives, (std::set<std::uint64_t>{5, 7}));
  EXPECT_EQ(groups.filesystems,
            (std::map<std::uint64_t, std::string>{{22, "0:21"}, {23, "0:22"}, {24, "0:6"}}));
}

// A file that is served and not known here would not be mounted.
TEST(KnownViews, AreAllThatIsServed) {
  for (const view::File& file : view::files()) {
    const auto views = launch::known_views();
    EXPECT_TRUE(std::any_of(views.begin(), views.end(),
                            [&](const launch::KnownView& known) {
                              return known.connection == file.connection &&
                                     (known.directory
                                          ? file.path.starts_with(std::string(known.path) + "/")
                                          : file.path == known.path);
                            }))
        << file.path << " belongs into src/launch/view_groups.cc";
  }
}

}  // namespace
}  // namespace umwelt::oci
