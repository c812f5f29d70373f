// SPDX-License-Identifier: Apache-2.0
#include "intercept/process_state.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <span>
#include <thread>

#include "base/descriptor_message.h"

namespace umwelt::intercept {
namespace {

using namespace std::chrono_literals;

// As runc 1.1 sends it.
constexpr std::string_view kRunc =
    R"({"ociVersion":"1.0.2-dev","fds":["seccompFd"],"pid":4711,"metadata":"web",)"
    R"("state":{"ociVersion":"1.0.2-dev","id":"f00","status":"creating","pid":4700,)"
    R"("bundle":"/b","annotations":{"a":"}"}}})";

struct Pair {
  Pair() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    ours.reset(ends[0]);
    theirs.reset(ends[1]);
  }
  void send(std::string_view text, int fd = -1) {
    ASSERT_EQ(send_message(theirs.get(), text, std::span(&fd, fd >= 0 ? 1 : 0)),
              static_cast<ssize_t>(text.size()));
  }
  UniqueFd ours, theirs;
};

TEST(ProcessState, ReadsWhatARuntimeSends) {
  const auto state = parse_process_state(kRunc);
  ASSERT_TRUE(state);
  EXPECT_EQ(state->fds, std::vector<std::string>{"seccompFd"});
  EXPECT_EQ(state->pid, 4711);
  EXPECT_EQ(state->init_pid, 4700);
  EXPECT_EQ(state->metadata, "web");
  EXPECT_EQ(state->container_id, "f00");
}

TEST(ProcessState, NamesAContainerOrNobody) {
  ProcessState state;
  for (const auto& [metadata, name] : std::vector<std::pair<std::string, std::string>>{
           {"web", "web"}, {"", kNobody}, {"hello world", kNobody}, {"../x", kNobody}}) {
    state.metadata = metadata;
    EXPECT_EQ(named_container(state), name);
  }
}

TEST(ProcessState, RefusesWhatIsNone) {
  for (const char* text :
       {"", "[]", "{}", R"({"fds":[]})", R"({"fds":[1]})", R"({"fds":"x"})",
        R"({"fds":["seccompFd"],"pid":"1"})", R"({"fds":["seccompFd"],"pid":99999999999})",
        R"({"fds":["seccompFd"],"metadata":5})"}) {
    const auto state = parse_process_state(text);
    ASSERT_FALSE(state) << text;
    EXPECT_EQ(state.error().code, EBADMSG) << text;
  }
}

TEST(ProcessState, TakesAListenerThatComesInPieces) {
  Pair pair;
  const UniqueFd fd(::eventfd(0, EFD_CLOEXEC));
  std::thread sender([&] {
    pair.send(kRunc.substr(0, 10), fd.get());
    for (std::size_t i = 10; i < kRunc.size(); i += 50) pair.send(kRunc.substr(i, 50));
  });
  const auto handed = receive_handed(pair.ours.get(), 5s);
  sender.join();
  ASSERT_TRUE(handed) << handed.error().message();
  EXPECT_EQ(handed->state.metadata, "web");
  EXPECT_TRUE(handed->listener);
  EXPECT_FALSE(handed->notice);
}

TEST(ProcessState, RefusesAMessageWithoutAListener) {
  Pair pair;
  pair.send(kRunc);
  const auto handed = receive_handed(pair.ours.get(), 5s);
  ASSERT_FALSE(handed);
  EXPECT_EQ(handed.error().code, EBADMSG);
}

TEST(ProcessState, DoesNotWaitForEver) {
  Pair pair;
  pair.send(kRunc.substr(0, 30));
  const auto handed = receive_handed(pair.ours.get(), 50ms);
  ASSERT_FALSE(handed);
  EXPECT_EQ(handed.error().code, ETIMEDOUT);
  pair.theirs.reset();
  const auto ended = receive_handed(pair.ours.get(), 5s);
  ASSERT_FALSE(ended);
  EXPECT_EQ(ended.error().code, ENODATA);
}

}  // namespace
}  // namespace umwelt::intercept
