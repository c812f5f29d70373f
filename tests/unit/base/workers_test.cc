// SPDX-License-Identifier: Apache-2.0
#include "base/workers.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <future>
#include <memory>
#include <set>
#include <thread>
#include <vector>

namespace umwelt {
namespace {

pid_t thread_of_work() {
  const auto id = std::make_shared<std::promise<pid_t>>();
  std::future<pid_t> done = id->get_future();
  run_in_worker([id] { id->set_value(::gettid()); });
  return done.get();
}

TEST(Workers, OneAfterTheOtherNeedsFewThreads) {
  std::set<pid_t> threads;
  for (int i = 0; i < 100; ++i) threads.insert(thread_of_work());
  EXPECT_LT(threads.size(), 50U);  // the next may come before the last is idle
  EXPECT_FALSE(threads.contains(::gettid()));
}

TEST(Workers, WhatNeverEndsHoldsUpNobody) {
  std::promise<void> end;
  const std::shared_future<void> ended = end.get_future().share();
  std::vector<std::future<void>> begun;
  for (int i = 0; i < 20; ++i) {
    const auto begin = std::make_shared<std::promise<void>>();
    begun.push_back(begin->get_future());
    run_in_worker([begin, ended] {
      begin->set_value();
      ended.wait();
    });
  }
  for (std::future<void>& one : begun) one.get();
  EXPECT_NE(thread_of_work(), ::gettid());
  end.set_value();
}

// Nothing that a work owns is kept with the thread.
TEST(Workers, WhatAWorkOwnsGoesWithIt) {
  auto owned = std::make_shared<int>(1);
  const std::weak_ptr<int> left = owned;
  run_in_worker([owned = std::move(owned)] { EXPECT_EQ(*owned, 1); });
  while (!left.expired()) std::this_thread::yield();
}

}  // namespace
}  // namespace umwelt
