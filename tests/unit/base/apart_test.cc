// SPDX-License-Identifier: Apache-2.0
#include "base/apart.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <stdexcept>
#include <thread>

namespace umwelt {
namespace {

using namespace std::chrono_literals;

TEST(Apart, WhatIsLateHoldsUpNobodyForLong) {
  Apart apart, other;
  EXPECT_EQ(apart.run<int>(10s, [] { return Result<int>(7); }).value(), 7);
  EXPECT_EQ(Apart::shared(100ms), 100ms);

  std::promise<void> end;
  const std::shared_future<void> ended = end.get_future().share();
  const auto wait = [ended]() -> Result<int> {
    ended.wait();
    return 8;
  };
  EXPECT_EQ(apart.run<int>(10ms, wait).error().code, ETIMEDOUT);
  EXPECT_TRUE(apart.busy());
  EXPECT_EQ(Apart::shared(100ms), 50ms);
  // It is late once, however many ask, and what is not late does not wait for it.
  EXPECT_EQ(apart.run<int>(10ms, wait).error().code, ETIMEDOUT);
  EXPECT_EQ(Apart::shared(100ms), 50ms);
  EXPECT_EQ(other.run<int>(10s, [] { return Result<int>(9); }).value(), 9);

  end.set_value();
  while (apart.busy()) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(Apart::shared(100ms), 100ms);
  EXPECT_EQ(apart.run<int>(10s, wait).value(), 8);
}

TEST(Apart, AnExceptionIsAnError) {
  Apart apart;
  const auto thrown = apart.run<int>(10s, []() -> Result<int> { throw std::runtime_error("no"); });
  EXPECT_EQ(thrown.error().code, EIO);
  EXPECT_FALSE(apart.busy());
}

}  // namespace
}  // namespace umwelt
