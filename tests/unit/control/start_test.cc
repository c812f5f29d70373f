// SPDX-License-Identifier: Apache-2.0
// Starting the daemon: stand-ins named umweltd in a PATH of their own; the one that serves is this
// test program with the real server.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "control/client.h"
#include "control/server.h"

namespace umwelt::control {
namespace {

using nlohmann::json;

class Start : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/umwelt-start-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    path_ = std::getenv("PATH");
    ::setenv("PATH", (folder_ + ":" + path_).c_str(), 1);
    const auto directories = container::directories(folder_ + "/run", folder_ + "/lib", "");
    ASSERT_TRUE(directories);
    directories_ = *directories;
  }
  void TearDown() override {
    ::setenv("PATH", path_.c_str(), 1);
    std::filesystem::remove_all(folder_);
  }

  void write_daemon(const std::string& script) {
    std::ofstream(folder_ + "/umweltd") << "#!/bin/sh\n" << script << "\n";
    ASSERT_EQ(::chmod((folder_ + "/umweltd").c_str(), 0755), 0);
  }
  void write_serving_daemon() {
    write_daemon("echo start >>" + folder_ + "/starts\nUMWELT_TEST_SOCKET=$2/umweltd.sock exec " +
                 std::filesystem::read_symlink("/proc/self/exe").string() +
                 " --gtest_also_run_disabled_tests --gtest_filter='StandIn.*'");
  }
  unsigned starts() const {
    std::ifstream file(folder_ + "/starts");
    std::string line;
    unsigned count = 0;
    while (std::getline(file, line)) ++count;
    return count;
  }

  std::string folder_, path_;
  container::Directories directories_;
};

TEST(StandIn, DISABLED_Serve) {
  const char* socket = std::getenv("UMWELT_TEST_SOCKET");
  if (socket == nullptr) GTEST_SKIP() << "only run by the tests below";
  std::atomic<bool> stop{false};
  const auto server =
      Server::start(Listener::bind(socket).value(), [&](const json& request) -> Result<json> {
        if (request.value("op", "") == "stop") stop = true;
        return json{{"pid", ::getpid()}, {"session", ::getsid(0)}};
      });
  ASSERT_TRUE(server) << server.error().message();
  for (int i = 0; i < 3000 && !stop; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ::unlink(socket);
}

TEST_F(Start, StartsOneDaemonForManyAtOnce) {
  write_serving_daemon();
  std::vector<std::thread> threads;
  std::atomic<int> connected{0};
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      auto client = connect_or_start(directories_);
      if (client)
        ++connected;
      else
        ADD_FAILURE() << client.error().message();
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(connected, 8);
  EXPECT_EQ(starts(), 1U);

  auto client = connect_or_start(directories_);
  ASSERT_TRUE(client);
  const auto reply = client->call({{"op", "stop"}});
  ASSERT_TRUE(reply);
  EXPECT_NE((*reply)["session"], ::getsid(0));
  EXPECT_EQ(::waitpid((*reply)["pid"], nullptr, WNOHANG), -1) << "the daemon is not our child";
  // It tidies its socket away at its own pace, in the folder that TearDown() removes.
  for (int i = 0; i < 3000 && std::filesystem::exists(directories_.socket()); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(std::filesystem::exists(directories_.socket()));
}

TEST_F(Start, TheErrorIsTheLastLineOfItsLog) {
  write_daemon("echo first; echo 'cannot open /dev/fuse: No such file' >&2; exit 1");
  auto client = connect_or_start(directories_);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().message(),
            "umweltd does not start: cannot open /dev/fuse: No such file");
  write_daemon("exit 1");  // the line of the last attempt is not this one's
  client = connect_or_start(directories_);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().message(),
            "umweltd does not start: see " + directories_.runtime + "/umweltd.log");
}

TEST_F(Start, PatienceEnds) {
  write_daemon("exec sleep 2");
  const auto before = std::chrono::steady_clock::now();
  const auto client = connect_or_start(directories_, std::chrono::milliseconds(300));
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, ETIMEDOUT);
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(2));
}

TEST_F(Start, NoDaemonInstalled) {
  ::setenv("PATH", folder_.c_str(), 1);
  const auto client = connect_or_start(directories_);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, ENOENT);
  EXPECT_NE(client.error().text.find("umweltd"), std::string::npos);
}

TEST_F(Start, TheDaemonInheritsNothingThatIsOpen) {
  write_daemon("ls -l /proc/$$/fd >" + folder_ + "/fds; exit 1");
  const int stray = ::open("/etc/hostname", O_RDONLY);  // not CLOEXEC
  EXPECT_FALSE(connect_or_start(directories_));
  ::close(stray);
  std::ifstream file(folder_ + "/fds");
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  EXPECT_NE(text.find("/dev/null"), std::string::npos) << text;
  EXPECT_EQ(text.find("hostname"), std::string::npos) << text;
}

}  // namespace
}  // namespace umwelt::control
