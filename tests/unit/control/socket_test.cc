// SPDX-License-Identifier: Apache-2.0
// Client and server over a real socket, and what a hostile peer can do.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>

#include "control/client.h"
#include "control/message.h"
#include "control/server.h"

namespace umwelt::control {
namespace {

using nlohmann::json;

class Socket : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/umwelt-control-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    path_ = folder_ + "/umweltd.sock";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<Server> serve(Server::Handler handler) {
    auto server = Server::start(Listener::bind(path_).value(), std::move(handler),
                                std::chrono::milliseconds(300));
    EXPECT_TRUE(server) << server.error().message();
    return server ? std::move(*server) : nullptr;
  }
  std::unique_ptr<Server> serve_echo() {
    return serve([](const json& request) -> Result<json> { return json{{"echo", request}}; });
  }
  UniqueFd raw() {
    UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    const auto address = socket_address(path_);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address),
              0);
    return fd;
  }
  json exchange(const UniqueFd& fd, std::string_view text) {
    EXPECT_EQ(::send(fd.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    auto reply = receive_message(fd.get());
    return reply && *reply ? **reply : json();
  }

  std::string folder_, path_;
};

TEST_F(Socket, RepliesToEveryRequest) {
  const auto server = serve_echo();
  auto client = Client::connect(path_);
  ASSERT_TRUE(client) << client.error().message();
  for (int i = 0; i < 100; ++i) {
    const auto reply = client->call({{"i", i}});
    ASSERT_TRUE(reply) << reply.error().message();
    EXPECT_EQ((*reply)["echo"]["i"], i);
  }
}

TEST_F(Socket, LargeMessagesPass) {
  const auto server = serve_echo();
  auto client = Client::connect(path_);
  ASSERT_TRUE(client);
  const auto reply = client->call({{"text", std::string(100000, 'x')}});
  ASSERT_TRUE(reply) << reply.error().message();
  EXPECT_EQ((*reply)["echo"]["text"].get<std::string>().size(), 100000U);
}

TEST_F(Socket, ErrorsKeepErrnoAndText) {
  const auto server =
      serve([](const json&) -> Result<json> { return fail(ENOENT, "container \"x\""); });
  auto client = Client::connect(path_);
  ASSERT_TRUE(client);
  const auto reply = client->call(json::object());
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, ENOENT);
  EXPECT_EQ(reply.error().text, "container \"x\"");
}

TEST_F(Socket, HandlerExceptionsBecomeErrors) {
  const auto server = serve([](const json& request) -> Result<json> {
    if (request.contains("memory")) throw std::bad_alloc();
    return request.at("missing");
  });
  auto client = Client::connect(path_);
  ASSERT_TRUE(client);
  auto reply = client->call(json::object());
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, EINVAL);
  reply = client->call({{"memory", 1}});
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, ENOMEM);
}

TEST_F(Socket, MalformedMessagesGetAnErrorAndTheConnectionGoesOn) {
  const auto server = serve_echo();
  const UniqueFd fd = raw();
  const std::string deep = std::string(100000, '[');
  for (const std::string& text :
       {std::string("x"), std::string("{"), std::string("[]"), std::string("null"),
        std::string("{\"a\":\"\xff\"}"), std::string("\0\0", 2), deep, std::string("{} {}")}) {
    const json reply = exchange(fd, text);
    EXPECT_EQ(reply.value("ok", true), false) << text.substr(0, 20);
    EXPECT_EQ(reply.value("errno", 0), EBADMSG) << text.substr(0, 20);
  }
  EXPECT_EQ(exchange(fd, "{}").value("ok", false), true);
}

TEST_F(Socket, AnOversizedMessageGetsAnErrorAndTheConnectionGoesOn) {
  const auto server = serve_echo();
  const UniqueFd fd = raw();
  const int bytes = 4 << 20;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0)
    GTEST_SKIP() << "needs CAP_NET_ADMIN";
  const json reply = exchange(fd, std::string(kMaxMessageBytes + 1, ' '));
  EXPECT_EQ(reply.value("errno", 0), EMSGSIZE);
  EXPECT_EQ(exchange(fd, "{}").value("ok", false), true);
}

TEST_F(Socket, AnOversizedReplyBecomesAnError) {
  const auto server = serve([](const json&) -> Result<json> {
    return json{{"text", std::string(kMaxMessageBytes, 'x')}};
  });
  auto client = Client::connect(path_);
  ASSERT_TRUE(client);
  const auto reply = client->call(json::object());
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, EMSGSIZE);
}

TEST_F(Socket, TextThatIsNotUtf8IsRefusedBeforeItIsSent) {
  const auto server = serve_echo();
  auto client = Client::connect(path_);
  ASSERT_TRUE(client);
  const auto reply = client->call({{"name", "\xff\xfe"}});
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, EINVAL);
}

TEST_F(Socket, NobodyThere) {
  auto client = Client::connect(path_);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, ENOENT);
  { const auto server = serve_echo(); }  // its socket file stays, for a next one
  client = Client::connect(path_);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, ECONNREFUSED);
  client = Client::connect(folder_ + "/" + std::string(108, 'a'));
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, ENAMETOOLONG);
}

TEST_F(Socket, OnlyOneServerAndADeadSocketIsReplaced) {
  {
    UniqueFd dead(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    const auto address = socket_address(path_);
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address), 0);
  }
  const auto server = serve_echo();
  ASSERT_NE(server, nullptr);
  struct stat status {};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600U);
  const auto second = Listener::bind(path_);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, EADDRINUSE);
  EXPECT_TRUE(Client::connect(path_));  // the loser left the socket alone
}

TEST_F(Socket, AnotherUserIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  const auto server = serve_echo();
  ::chmod(folder_.c_str(), 0755);
  ::chmod(path_.c_str(), 0666);  // what the file mode would not stop
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(2);
    auto client = Client::connect(path_);
    if (!client) ::_exit(3);
    const auto reply = client->call(json::object());
    ::_exit(!reply && reply.error().code == EPERM ? 0 : 4);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(Socket, ASlowRequestHoldsUpNobodyElse) {
  std::atomic<bool> release{false};
  const auto server = serve([&](const json& request) -> Result<json> {
    while (request.contains("slow") && !release)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return json::object();
  });
  std::thread slow([&] {
    auto client = Client::connect(path_);
    EXPECT_TRUE(client && client->call({{"slow", true}}));
  });
  auto client = Client::connect(path_);
  ASSERT_TRUE(client);
  EXPECT_TRUE(client->call(json::object()));
  release = true;
  slow.join();
}

TEST_F(Socket, ConnectionsAreBounded) {
  const auto server = serve_echo();
  std::vector<Client> clients;
  for (int i = 0; i < 64; ++i) {
    auto client = Client::connect(path_);
    ASSERT_TRUE(client);
    ASSERT_TRUE(client->call(json::object()));
    clients.push_back(std::move(*client));
  }
  // The one that has asked nothing for longest is closed for the next, and comes back when it asks.
  auto extra = Client::connect(path_);
  ASSERT_TRUE(extra);
  EXPECT_TRUE(extra->call(json::object()));
  for (Client& client : clients) EXPECT_TRUE(client.call(json::object()));
}

TEST_F(Socket, OneTooManyWaitsForOneThatIsAnswered) {
  std::atomic<unsigned> asked{0}, answered{0};
  std::atomic<bool> release{false};
  const auto server = serve([&](const json&) -> Result<json> {
    ++asked;
    while (!release) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return json::object();
  });
  std::vector<std::thread> threads;
  for (int i = 0; i < 100; ++i)
    threads.emplace_back([&] {
      auto client = Client::connect(path_);
      if (client && client->call(json::object())) ++answered;
    });
  while (asked < 64) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  EXPECT_EQ(asked, 64U);  // none of them is idle
  release = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(answered, 100U);
}

TEST_F(Socket, APeerThatDoesNotReadIsDropped) {
  const auto server = serve([](const json&) -> Result<json> {
    return json{{"text", std::string(100000, 'x')}};
  });
  const UniqueFd fd = raw();
  // Replies pile up unread until the server's send times out and it closes the connection.
  for (int i = 0; i < 200; ++i)
    if (::send(fd.get(), "{}", 2, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) break;
  pollfd entry{fd.get(), POLLRDHUP, 0};
  EXPECT_EQ(::poll(&entry, 1, 15000), 1);
  auto client = Client::connect(path_);
  ASSERT_TRUE(client);
  EXPECT_TRUE(client->call(json::object()));
}

TEST_F(Socket, AHungDaemonIsATimeout) {
  UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  const auto address = socket_address(path_);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address),
            0);
  ASSERT_EQ(::listen(listener.get(), 8), 0);
  auto client = Client::connect(path_, std::chrono::milliseconds(300));
  ASSERT_TRUE(client);
  const auto reply = client->call(json::object());
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, ETIMEDOUT);
}

TEST_F(Socket, StopsWithRequestsUnderWay) {
  auto server = serve([](const json&) -> Result<json> {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return json::object();
  });
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      auto client = Client::connect(path_);
      while (client && client->call(json::object())) {
      }
    });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  server.reset();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace umwelt::control
