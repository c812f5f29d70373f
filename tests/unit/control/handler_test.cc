// SPDX-License-Identifier: Apache-2.0
#include "control/handler.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "../container/kernel_fixture.h"
#include "base/file.h"
#include "control/client.h"
#include "control/server.h"

namespace umwelt::control {
namespace {

using container::Child;
using container::Registry;
using container::TestCgroup;
using nlohmann::json;

class Handler : public container::HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    registry_ = std::make_unique<Registry>(folder_ + "/records", hierarchies_, host_);
    ASSERT_TRUE(registry_->load());
    services_ = std::make_unique<Services>(
        Services{*registry_, [](const Registry::ContainerPtr& container) -> Result<void> {
                   UMWELT_CHECK(container->refresh());
                   return {};
                 }});
    auto server =
        Server::start(Listener::bind(folder_ + "/umweltd.sock").value(),
                      [this](const json& request) { return handle_request(*services_, request); });
    ASSERT_TRUE(server) << server.error().message();
    server_ = std::move(*server);
  }
  void TearDown() override {
    server_.reset();
    KernelTest::TearDown();
  }
  Client connect() {
    auto client = Client::connect(folder_ + "/umweltd.sock");
    EXPECT_TRUE(client) << client.error().message();
    return std::move(*client);
  }
  static container::Record record(const std::string& id, const TestCgroup& cgroup) {
    container::Record record;
    record.id = id;
    record.cgroup_paths = cgroup.paths();
    return record;
  }

  std::unique_ptr<Registry> registry_;
  std::unique_ptr<Services> services_;
  std::unique_ptr<Server> server_;
};

TEST_F(Handler, TheLifeOfAContainer) {
  TestCgroup cgroup(hierarchies_, "-handler");
  cgroup.set_memory_max(64U << 20);
  const Child child(0, [&] { return cgroup.attach(::getpid()); });
  ASSERT_TRUE(child.ok());
  Client client = connect();
  const auto ping = client.call({{"op", "ping"}});
  ASSERT_TRUE(ping);
  EXPECT_EQ((*ping)["pid"], ::getpid());
  EXPECT_EQ((*ping)["version"], UMWELT_VERSION);

  container::Record wanted = record("web", cgroup);
  wanted.name = "h\xc3\xa4user";
  wanted.init_pid = child.pid();
  const auto added = client.add(wanted);
  ASSERT_TRUE(added) << added.error().message();
  EXPECT_GT(added->number, 0U);
  EXPECT_EQ(added->name, wanted.name);
  EXPECT_EQ(client.add(wanted)->number, added->number);
  wanted.init_pid = ::getpid();
  EXPECT_EQ(client.add(wanted).error().code, EEXIST);

  const auto list = client.list();
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 1U);
  EXPECT_EQ(list->front().number, added->number);

  cgroup.set_memory_max(32U << 20);
  EXPECT_TRUE(client.refresh("web"));
  const auto resources = client.resources("web");
  ASSERT_TRUE(resources) << resources.error().message();
  EXPECT_NE(resources->dump().find(std::to_string(32U << 20)), std::string::npos) << *resources;
  const json& usage = (*resources)["usage"];
  EXPECT_EQ(usage["tasks"], 1);
  EXPECT_EQ(usage["processes"], 1);
  EXPECT_TRUE(usage["memory_bytes"].is_number_unsigned());
  EXPECT_TRUE(usage["cpu_ns"].is_number_unsigned());
  EXPECT_EQ(usage["load"].size(), 3U);

  EXPECT_TRUE(client.remove("web"));
  EXPECT_EQ(client.remove("web").error().code, ENOENT);
  EXPECT_EQ(client.resources("web").error().code, ENOENT);
  EXPECT_EQ(client.refresh("web").error().code, ENOENT);
  EXPECT_TRUE(client.list()->empty());
}

TEST_F(Handler, AListOfManyComesInPages) {
  TestCgroup cgroup(hierarchies_, "-pages");
  Client client = connect();
  for (int i = 0; i < 300; ++i) {
    container::Record wanted = record("c" + std::to_string(i), cgroup);
    wanted.name = std::string(255, 'n');
    ASSERT_TRUE(client.add(wanted));
  }
  const auto first = client.call({{"op", "list"}});
  ASSERT_TRUE(first);
  EXPECT_EQ((*first)["more"], true);
  EXPECT_LT((*first)["records"].size(), 300U);
  const auto list = client.list();
  ASSERT_TRUE(list) << list.error().message();
  ASSERT_EQ(list->size(), 300U);
  for (std::size_t i = 0; i < list->size(); ++i) EXPECT_EQ((*list)[i].id, "c" + std::to_string(i));
}

TEST_F(Handler, OneWhoseCgroupCanNotBeOpenedYetIsUnregistered) {
  TestCgroup cgroup(hierarchies_, "-late");
  ASSERT_TRUE(registry_->add(record("web", cgroup)));
  server_.reset();
  registry_ = std::make_unique<Registry>(folder_ + "/records", hierarchies_, host_);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  // Enough to read records.
  const rlimit tight{read_names_at(AT_FDCWD, "/proc/self/fd")->size() + 3, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &tight), 0);
  const auto loaded = registry_->load();
  ::setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_EQ(loaded.value_or(1), 0U);
  const Services services{*registry_, {}};
  const json request = {{"op", "unregister"}, {"id", "web"}};
  const auto done = handle_request(services, request);
  EXPECT_TRUE(done) << done.error().message();
  registry_->load_late();
  EXPECT_TRUE(registry_->all().empty());
  EXPECT_EQ(handle_request(services, request).error().code, ENOENT);
}

TEST_F(Handler, WhatIsWaitedForIsTold) {
  TestCgroup cgroup(hierarchies_, "-waits");
  Client client = connect();
  ASSERT_TRUE(client.add(record("web", cgroup)));
  services_->refresh = [](const Registry::ContainerPtr&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(900));  // the last begins after 4.6 s
    return Result<void>(fail(ETIMEDOUT, "the container's lock"));
  };
  const auto refreshed = client.refresh("web");
  ASSERT_FALSE(refreshed);
  EXPECT_EQ(refreshed.error().text, "the container's lock");
}

TEST_F(Handler, MalformedRequestsAreErrors) {
  const struct {
    const char* request;
    int code;
  } cases[] = {
      {R"({})", ENOSYS},
      {R"({"op":7})", EINVAL},
      {R"({"op":["ping"]})", EINVAL},
      {R"({"op":null})", ENOSYS},
      {R"({"op":"Ping"})", ENOSYS},
      {R"({"op":"register"})", EINVAL},
      {R"({"op":"register","record":7})", EINVAL},
      {R"({"op":"register","record":[]})", EINVAL},
      {R"({"op":"register","record":{}})", EINVAL},
      {R"({"op":"register","record":{"id":"a"}})", EINVAL},
      {R"({"op":"register","record":{"id":"a","cgroup":{"memory":"/../x"}}})", EINVAL},
      {R"({"op":"register","record":{"id":"a","cgroup":{"":"/none","memory":"/none"}}})", ENODEV},
      {R"({"op":"register","record":{"id":"a","init_pid":2147483647}})", ESRCH},
      {R"({"op":"unregister"})", EINVAL},
      {R"({"op":"unregister","id":{}})", EINVAL},
      {R"({"op":"unregister","id":"../records/x"})", EINVAL},
      {R"({"op":"unregister","id":"absent"})", ENOENT},
      {R"({"op":"resources","id":true})", EINVAL},
      {R"({"op":"refresh","id":""})", EINVAL},
      {R"({"op":"list","after":"0"})", EINVAL},
      {R"({"op":"list","after":-1})", EINVAL},
      {R"({"op":"list","after":1e300})", EINVAL},
  };
  Client client = connect();
  for (const auto& row : cases) {
    const auto reply = client.call(json::parse(row.request));
    ASSERT_FALSE(reply) << row.request;
    EXPECT_EQ(reply.error().code, row.code) << row.request << ": " << reply.error().message();
    EXPECT_EQ(reply.error().message().find('\n'), std::string::npos);
  }
  EXPECT_TRUE(client.call({{"op", "ping"}}));
  EXPECT_TRUE(registry_->all().empty());
}

}  // namespace
}  // namespace umwelt::control
