// SPDX-License-Identifier: Apache-2.0
#include "fusefs/holdings.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fusefs/descriptor_store.h"

namespace umwelt::fusefs {
namespace {

UniqueFd memory(const std::string& text) {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC));
  EXPECT_EQ(::write(fd.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  return fd;
}

std::string content(int fd) {
  char text[100];
  const ssize_t n = ::pread(fd, text, sizeof(text), 0);
  return {text, n < 0 ? 0 : static_cast<std::size_t>(n)};
}

TEST(Holdings, AProgramGetsThemInItsEnvironment) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], 1);
    Holdings holdings;
    for (const char* name : {"zero", "kept/listener/web", "a.1"}) holdings.put(name, memory(name));
    const Error error =
        std::move(holdings).exec({"/bin/sh", "-c",
                                  "[ $LISTEN_PID = $$ ] && echo $LISTEN_FDS $LISTEN_FDNAMES; "
                                  "for fd in 3 4 5; do head -c 9 /dev/fd/$fd; echo; done; "
                                  "[ -e /dev/fd/6 ] && [ ! -e /proc/self/fd/7 ]; exit 0"});
    ::_exit(1);
  }
  ::close(ends[1]);
  std::string text;
  char buffer[500];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof(buffer))) > 0;)
    text.append(buffer, static_cast<std::size_t>(n));
  ::close(ends[0]);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(text.starts_with("3 a.1:kept/listener/web:zero\n")) << text;
}

TEST(Holdings, AreReadFromTheEnvironmentOnce) {
  const pid_t child = ::fork();
  if (child == 0) {
    const UniqueFd x = memory("x"), y = memory("y");
    const int far = ::fcntl(y.get(), F_DUPFD, 10);
    ::dup2(x.get(), 3);
    ::dup2(far, 4);
    ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    ::setenv("LISTEN_FDS", "2", 1);
    ::setenv("LISTEN_FDNAMES", "live.0:live.1", 1);
    auto holdings = Holdings::from_environment();
    const bool good = holdings && holdings->all("live").size() == 2 &&
                      content(holdings->get("live.1")) == "y" && holdings->get("live.2") == -1 &&
                      Holdings::from_environment()->empty();
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(Holdings, ManyLongNamesSurviveAProgramOfOurs) {
  const pid_t child = ::fork();
  if (child == 0) {
    Holdings holdings;
    for (int i = 0; i < 450; ++i)
      holdings.put("kept/listener/" + std::string(240, 'n') + std::to_string(i), memory("x"));
    const Error error = std::move(holdings).exec(
        {"/bin/sh", "-c", "[ ${#LISTEN_FDNAMES} = 100000 ] && [ ${#LISTEN_FDNAMES_1} -gt 10000 ]"});
    ::_exit(2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);

  const pid_t reader = ::fork();
  if (reader == 0) {
    const UniqueFd x = memory("x");
    ::dup2(x.get(), 3);
    ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    ::setenv("LISTEN_FDS", "1", 1);
    ::setenv("LISTEN_FDNAMES", "kept/list", 1);
    ::setenv("LISTEN_FDNAMES_1", "ener/web", 1);
    const auto holdings = Holdings::from_environment();
    const bool good = holdings && content(holdings->get("kept/listener/web")) == "x" &&
                      std::getenv("LISTEN_FDNAMES_1") == nullptr;
    ::_exit(good ? 0 : 1);
  }
  ASSERT_EQ(::waitpid(reader, &status, 0), reader);
  EXPECT_EQ(status, 0);
}

TEST(Holdings, ThoseOfAnotherProcessAreLeftAlone) {
  ::setenv("LISTEN_PID", "1", 1);
  ::setenv("LISTEN_FDS", "2", 1);
  ::setenv("LISTEN_FDNAMES", "a:b", 1);
  const auto holdings = Holdings::from_environment();
  ASSERT_TRUE(holdings);
  EXPECT_TRUE(holdings->empty());
}

TEST(DescriptorStore, TheKeeperGetsACopyAtOnce) {
  auto [here, there] = KeeperChannel::make_pair().value();
  KeeperChannel server(std::move(here)), keeper(std::move(there));
  DescriptorStore store(server, {});
  ASSERT_TRUE(store.keep("listener/web", memory("seccomp").get()));
  store.drop("listener/db");
  EXPECT_FALSE(store.keep("a:b", 0));
  EXPECT_FALSE(store.keep("", 0));

  auto message = keeper.receive();
  ASSERT_TRUE(message && *message);
  EXPECT_EQ((*message)->verb, Verb::kKeep);
  EXPECT_EQ((*message)->text, "listener/web");
  EXPECT_EQ(content((*message)->fd.get()), "seccomp");
  message = keeper.receive();
  ASSERT_TRUE(message && *message);
  EXPECT_EQ((*message)->verb, Verb::kDrop);
  EXPECT_EQ((*message)->text, "listener/db");
  EXPECT_EQ(keeper.receive().error().code, EAGAIN);
}

TEST(DescriptorStore, GivesBackWhatWasKept) {
  auto [here, there] = KeeperChannel::make_pair().value();
  KeeperChannel server(std::move(here));
  std::map<std::string, UniqueFd> kept;
  kept["listener/web"] = memory("seccomp");
  DescriptorStore store(server, std::move(kept));
  const auto taken = store.taken();
  ASSERT_TRUE(taken);
  ASSERT_EQ(taken->size(), 1U);
  EXPECT_EQ(content(taken->at("listener/web").get()), "seccomp");
  store.drop("listener/web");
  EXPECT_TRUE(store.taken()->empty());
}

TEST(DescriptorStore, ANewKeeperGetsAllOfThem) {
  auto [here, there] = KeeperChannel::make_pair().value();
  KeeperChannel server(std::move(here));
  DescriptorStore store(server, {});
  there.reset();  // the keeper dies
  ASSERT_TRUE(store.keep("one", memory("1").get()));
  ASSERT_TRUE(store.hand_over([&](auto kept) -> Result<void> {
    EXPECT_EQ(content(kept.at("one").get()), "1");
    auto [mine, theirs] = KeeperChannel::make_pair().value();
    there = std::move(theirs);
    server.replace(std::move(mine));
    return {};
  }));
  ASSERT_TRUE(store.keep("two", memory("2").get()));
  KeeperChannel keeper(std::move(there));
  auto message = keeper.receive();
  ASSERT_TRUE(message && *message);
  EXPECT_EQ((*message)->text, "two");
}

}  // namespace
}  // namespace umwelt::fusefs
