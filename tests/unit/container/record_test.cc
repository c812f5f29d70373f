// SPDX-License-Identifier: Apache-2.0
#include "container/record.h"

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <nlohmann/json.hpp>

namespace umwelt::container {
namespace {

using nlohmann::json;

Record example() {
  Record record;
  record.number = 7;
  record.id = "web-1";
  record.name = "web";
  record.hostname = "web.example";
  record.init_pid = 4321;
  record.init_starttime = 987654321;
  record.cgroup_paths = {{"", "/umwelt/web-1"}, {"memory", "/umwelt/web-1"}, {"name=x", "/"}};
  record.start_boottime_ns = 18446744073709551615ULL;
  record.start_realtime_s = -5;
  record.time_namespace = true;
  record.disk_capacity_bytes = 1ULL << 40;
  record.disk = view::Disk{7, 3, "vda", {1, 2}};
  record.policy = {view::CpuPolicy::kFloor, view::CpuIds::kDense, view::UptimePolicy::kHost, true};
  return record;
}

TEST(Record, SurvivesJson) {
  const Record record = example();
  const auto back = record_from_json(json::parse(to_json(record).dump()));
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(to_json(*back), to_json(record));
  EXPECT_EQ(back->start_boottime_ns, record.start_boottime_ns);
  EXPECT_EQ(back->cgroup_paths, record.cgroup_paths);
  EXPECT_EQ(back->disk_capacity_bytes, record.disk_capacity_bytes);
  EXPECT_EQ(back->disk, record.disk);
  EXPECT_EQ(back->policy.cpu_policy, view::CpuPolicy::kFloor);
  EXPECT_EQ(back->policy.uptime, view::UptimePolicy::kHost);
  EXPECT_TRUE(back->policy.affinity_virtualised);
}

TEST(Record, AbsentFieldsHaveDefaults) {
  const auto record = record_from_json(json{{"id", "a"}, {"policy", nullptr}});
  ASSERT_TRUE(record);
  EXPECT_EQ(record->init_pid, 0);
  EXPECT_FALSE(record->disk_capacity_bytes);
  EXPECT_FALSE(record->disk);
  EXPECT_EQ(record->policy.cpu_ids, view::CpuIds::kAuto);
}

TEST(Record, RefusesWhatIsOutOfBounds) {
  const char* const bad[] = {
      R"([])",
      R"(null)",
      R"("id")",
      R"({})",
      R"({"id":""})",
      R"({"id":7})",
      R"({"id":"../x"})",
      R"({"id":".x"})",
      R"({"id":"a/b"})",
      R"({"id":"a b"})",
      R"({"id":"a\u0000b"})",
      R"({"id":"a","number":-1})",
      R"({"id":"a","number":1.5})",
      R"({"id":"a","number":1e99})",
      R"({"id":"a","number":99999999999999999999999})",
      R"({"id":"a","number":"7"})",
      R"({"id":"a","number":true})",
      R"({"id":"a","init_pid":-1})",
      R"({"id":"a","init_pid":4294967296})",
      R"({"id":"a","name":"x\ny"})",
      R"({"id":"a","name":[]})",
      R"({"id":"a","hostname":"x\u001by"})",
      R"({"id":"a","time_namespace":1})",
      R"({"id":"a","disk_capacity_bytes":-1})",
      R"({"id":"a","disk":7})",
      R"({"id":"a","disk":{"major":-1}})",
      R"({"id":"a","disk":{"name":"a b"}})",
      R"({"id":"a","cgroup":[]})",
      R"({"id":"a","cgroup":{"memory":1}})",
      R"({"id":"a","cgroup":{"memory":""}})",
      R"({"id":"a","cgroup":{"memory":"x"}})",
      R"({"id":"a","cgroup":{"memory":"/a/../../b"}})",
      R"({"id":"a","cgroup":{"memory":"/.."}})",
      R"({"id":"a","cgroup":{"memory":"/a\u0000"}})",
      R"({"id":"a","cgroup":{"mem/ory":"/a"}})",
      R"({"id":"a","policy":1})",
      R"({"id":"a","policy":{"cpus":"all"}})",
      R"({"id":"a","policy":{"cpu_ids":3}})",
      R"({"id":"a","policy":{"uptime":{}}})",
      R"({"id":"a","policy":{"affinity_virtualised":"yes"}})",
  };
  for (const char* text : bad) {
    const auto record = record_from_json(json::parse(text));
    ASSERT_FALSE(record) << text;
    EXPECT_EQ(record.error().code, EINVAL) << text;
    EXPECT_EQ(record.error().text.find('\n'), std::string::npos) << text;
  }
  EXPECT_FALSE(record_from_json(json{{"id", std::string(65, 'a')}}));
  EXPECT_FALSE(record_from_json(json{{"id", "a"}, {"name", std::string(256, 'a')}}));
  EXPECT_FALSE(record_from_json(json{{"id", "a"}, {"hostname", std::string(65, 'a')}}));
  json many = json::object();
  for (int i = 0; i < 65; ++i) many[std::to_string(i)] = "/a";
  EXPECT_FALSE(record_from_json(json{{"id", "a"}, {"cgroup", many}}));
  EXPECT_FALSE(
      record_from_json(json{{"id", "a"}, {"cgroup", {{"memory", "/" + std::string(4096, 'a')}}}}));
}

TEST(Record, PathsWithDotsInNamesAreFine) {
  const auto record = record_from_json(
      json{{"id", "a"}, {"cgroup", {{"memory", "/..a/.b/c../system.slice"}, {"cpu", "/"}}}});
  ASSERT_TRUE(record) << record.error().message();
}

TEST(Record, IdentityIsTheHostOnlyAtEveryRoot) {
  Record record = example();
  EXPECT_TRUE(record.identity().limited);
  record.cgroup_paths = {{"", "/"}, {"memory", "/"}};
  EXPECT_FALSE(record.identity().limited);
  record.cgroup_paths["cpu"] = "/x";
  EXPECT_TRUE(record.identity().limited);
  EXPECT_EQ(record.identity().id, "web-1");
}

TEST(Process, StarttimeWithAnyName) {
  ASSERT_EQ(::prctl(PR_SET_NAME, "a) Z 1 2 (\n3"), 0);
  const auto stat = read_process_stat(::getpid());
  ASSERT_TRUE(stat) << stat.error().message();
  EXPECT_EQ(stat->state, 'R');
  EXPECT_GT(stat->starttime, 0U);
  EXPECT_TRUE(process_lives(::getpid(), stat->starttime));
  EXPECT_FALSE(process_lives(::getpid(), stat->starttime + 1));
}

TEST(Process, ADeadOneIsGoneAlsoAsAZombie) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  const auto starttime = read_starttime(child);
  ASSERT_TRUE(starttime);
  EXPECT_TRUE(process_lives(child, *starttime));
  ::kill(child, SIGKILL);
  siginfo_t info;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(process_lives(child, *starttime));
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  const auto gone = read_starttime(child);
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code, ESRCH);
}

TEST(Directories, FlagThenEnvironmentThenDefault) {
  ::unsetenv("UMWELT_RUNTIME_DIR");
  ::unsetenv("UMWELT_CONFIG");
  ::setenv("UMWELT_STATE_DIR", "/env//state/./x/", 1);
  const auto directories_ = directories("/flag/", "", "");
  ::unsetenv("UMWELT_STATE_DIR");
  ASSERT_TRUE(directories_) << directories_.error().message();
  EXPECT_EQ(directories_->runtime, "/flag");
  EXPECT_EQ(directories_->state, "/env/state/x");
  EXPECT_EQ(directories_->config, "/etc/umwelt/umwelt.toml");
  EXPECT_EQ(directories_->socket(), "/flag/umweltd.sock");
}

TEST(Directories, RefusesRelativeAndTooLong) {
  for (const char* path : {"run", "./run", "/a/../b", "/a\nb"}) {
    const auto result = directories(path, "", "");
    ASSERT_FALSE(result) << path;
    EXPECT_TRUE(result.error().message().starts_with("--runtime-dir: '")) << result.error().text;
  }
  EXPECT_FALSE(directories("/r", "relative", ""));
  EXPECT_FALSE(directories("/r", "/s", "relative"));
  ::setenv("UMWELT_CONFIG", "relative", 1);
  const auto variable = directories("/r", "/s", "");
  ::unsetenv("UMWELT_CONFIG");
  ASSERT_FALSE(variable);
  EXPECT_TRUE(variable.error().message().starts_with("UMWELT_CONFIG: 'relative'"));
  const std::string longest(107 - std::string("/umweltd.sock").size() - 1, 'a');
  EXPECT_TRUE(directories("/" + longest, "", ""));
  const auto result = directories("/" + longest + "a", "", "");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ENAMETOOLONG);
}

}  // namespace
}  // namespace umwelt::container
