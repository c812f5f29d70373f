// SPDX-License-Identifier: Apache-2.0
#include "base/descriptor_message.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include <array>

namespace umwelt {
namespace {

class DescriptorMessage : public testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    ours_.reset(ends[0]);
    theirs_.reset(ends[1]);
  }
  UniqueFd ours_, theirs_;
  std::array<char, 64> buffer_{};
  std::vector<UniqueFd> got_;
};

TEST_F(DescriptorMessage, CarriesCopiesInTheirOrder) {
  const UniqueFd first(::eventfd(7, EFD_CLOEXEC)), second(::eventfd(9, EFD_CLOEXEC));
  const int fds[] = {first.get(), second.get()};
  ASSERT_EQ(send_message(theirs_.get(), "two", fds), 3);
  ASSERT_EQ(receive_message(ours_.get(), buffer_, got_), 3);
  EXPECT_EQ(std::string_view(buffer_.data(), 3), "two");
  ASSERT_EQ(got_.size(), 2U);
  for (const std::uint64_t expected : {7U, 9U}) {
    std::uint64_t value = 0;
    ASSERT_EQ(::read(got_[expected == 9].get(), &value, sizeof value), 8);
    EXPECT_EQ(value, expected);
    EXPECT_NE(::fcntl(got_[expected == 9].get(), F_GETFD) & FD_CLOEXEC, 0);
  }
}

TEST_F(DescriptorMessage, CarriesNone) {
  ASSERT_EQ(send_message(theirs_.get(), "none"), 4);
  ASSERT_EQ(receive_message(ours_.get(), buffer_, got_), 4);
  EXPECT_TRUE(got_.empty());
}

TEST_F(DescriptorMessage, IsBounded) {
  const std::vector<int> most(kMaxDescriptorsInMessage, theirs_.get());
  ASSERT_EQ(send_message(theirs_.get(), "x", most), 1);
  ASSERT_EQ(receive_message(ours_.get(), buffer_, got_), 1);
  EXPECT_EQ(got_.size(), most.size());
  const std::vector<int> more(kMaxDescriptorsInMessage + 1, theirs_.get());
  EXPECT_EQ(send_message(theirs_.get(), "x", more), -1);
  EXPECT_EQ(errno, EINVAL);
}

TEST_F(DescriptorMessage, SaysWhatTheKernelSays) {
  EXPECT_EQ(receive_message(ours_.get(), buffer_, got_, MSG_DONTWAIT), -1);
  EXPECT_EQ(errno, EAGAIN);
  theirs_.reset();
  EXPECT_EQ(receive_message(ours_.get(), buffer_, got_), 0);
  EXPECT_EQ(send_message(ours_.get(), "x"), -1);
  EXPECT_EQ(errno, EPIPE);
}

}  // namespace
}  // namespace umwelt
