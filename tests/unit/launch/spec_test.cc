// SPDX-License-Identifier: Apache-2.0
#include "launch/spec.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace umwelt::launch {
namespace {

Launched full() {
  Launched launched;
  Spec& spec = launched.spec;
  spec.id = "abc123";
  spec.name = "web";
  spec.hostname = "host";
  spec.command = {"sh", "-c", "echo \"hi\""};
  spec.environment = {"A=1", "B="};
  spec.workdir = "/srv";
  spec.user = "app:adm";
  spec.rootfs = "/images/x";
  spec.image = "debian";
  spec.disk = DiskSpec{1ULL << 30, "", DiskMode::kClone, vdisk::Class::kGuaranteed, true};
  spec.mounts = {{MountType::kBind, "/a", "/b", true, std::nullopt, std::nullopt},
                 {MountType::kTmpfs, "", "/tmp", false, 65536, 0700},
                 {MountType::kVolume, "data", "/data", true, std::nullopt, std::nullopt}};
  spec.limits.cpuset_cpus = CpuSet::parse("0-1");
  spec.limits.cpuset_mems = CpuSet::parse("0");
  spec.limits.bandwidth = {25000, 50000};
  spec.limits.cpu_shares = 77;
  spec.limits.memory_bytes = 1U << 28;
  spec.limits.memory_swap_bytes = 1U << 29;
  spec.limits.pids_limit = 10;
  spec.policy.cpu_policy = view::CpuPolicy::kFloor;
  spec.policy.cpu_ids = view::CpuIds::kDense;
  spec.network = Network::kNone;
  spec.read_only = spec.tty = spec.interactive = spec.detach = spec.remove = spec.init = true;
  launched.status = Status::kStopped;
  launched.init_pid = 11;
  launched.init_starttime = 12;
  launched.monitor_pid = 13;
  launched.monitor_starttime = 14;
  launched.created_s = 15;
  launched.started_s = 16;
  launched.finished_s = 17;
  launched.exit_code = 137;
  launched.oom_killed = true;
  return launched;
}

TEST(Spec, SurvivesJson) {
  const auto json = to_json(full());
  const auto back = launched_from_json(nlohmann::json::parse(json.dump()));
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(to_json(*back), json);
  EXPECT_EQ(back->spec.mounts[1].mode, 0700U);
  EXPECT_EQ(back->spec.limits.bandwidth, (cgroup::Bandwidth{25000, 50000}));
  EXPECT_EQ(back->spec.policy.cpu_ids, view::CpuIds::kDense);
  EXPECT_EQ(back->exit_code, 137);
  EXPECT_EQ(back->spec.disk->cls, vdisk::Class::kGuaranteed);
  EXPECT_EQ(back->spec.mounts[2].type, MountType::kVolume);
}

TEST(Spec, EveryFieldOfTheWrongTypeIsRefused) {
  const auto good = nlohmann::json::parse(to_json(full()).dump());
  const auto check = [](const nlohmann::json& json, const std::string& what) {
    EXPECT_FALSE(launched_from_json(json)) << what;
  };
  for (const auto& [key, value] : good.items()) {
    auto bad = good;
    bad[key] = nlohmann::json::array({nlohmann::json::object()});
    check(bad, key);
  }
  for (const auto& [key, value] : good["spec"].items()) {
    auto bad = good;
    bad["spec"][key] = nlohmann::json::array({7});
    check(bad, "spec." + key);
  }
  for (const auto& [key, value] : good["spec"]["limits"].items()) {
    auto bad = good;
    bad["spec"]["limits"][key] = nlohmann::json::object();
    check(bad, "limits." + key);
  }
}

TEST(Spec, RefusesWhatIsNoState) {
  for (const char* text : {"null", "[]", "{}", "{\"spec\":{}}", "{\"spec\":{\"id\":\"../x\"}}",
                           "{\"spec\":{\"id\":\"a\",\"limits\":{\"cpu_quota_us\":5,"
                           "\"cpu_period_us\":0}}}"})
    EXPECT_FALSE(launched_from_json(nlohmann::json::parse(text))) << text;
}

}  // namespace
}  // namespace umwelt::launch
