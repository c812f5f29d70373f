// SPDX-License-Identifier: Apache-2.0
#include "fusefs/live_files.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace umwelt::fusefs {
namespace {

class LiveFilesTest : public testing::Test {
 protected:
  // A text that says how often one was made.
  LiveFiles::Render counted() {
    return [this]() -> Result<std::string> { return "made " + std::to_string(++made_); };
  }
  std::string read(std::uint64_t handle, off_t offset = 0) {
    if (offset != 0)
      if (const Text text = files_.snapshot(handle)) return *text;
    return **files_.take_snapshot(handle, subject_, counted());
  }
  static void expire() {
    std::this_thread::sleep_for(std::chrono::nanoseconds(2 * LiveFiles::kShareNs));
  }

  LiveFiles files_;
  std::shared_ptr<int> container_ = std::make_shared<int>(0);
  LiveFiles::Subject subject_{container_, 1, 77};
  int made_ = 0;
};

TEST_F(LiveFilesTest, AnOpenFileKeepsItsSnapshotUntilItIsRewound) {
  const std::uint64_t handle = files_.open();
  EXPECT_EQ(read(handle), "made 1");
  expire();
  EXPECT_EQ(read(handle, 3), "made 1");
  EXPECT_EQ(read(handle), "made 2");
  EXPECT_EQ(read(handle, 100), "made 2");
}

TEST_F(LiveFilesTest, ReadsAtTheSameTimeShareOne) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::nanoseconds kShare{LiveFiles::kShareNs};
  Clock::duration took = kShare;
  // On a busy machine some are not at the same time.
  for (int i = 0; i < 1000 && took >= kShare; ++i) {
    expire();
    made_ = 0;
    const auto begin = Clock::now();
    EXPECT_EQ(read(files_.open()), "made 1");
    const std::string second = read(files_.open());
    took = Clock::now() - begin;
    if (took < kShare) {
      EXPECT_EQ(second, "made 1");
    }
  }
  ASSERT_LT(took, kShare);
  expire();
  EXPECT_EQ(read(files_.open()), "made 2");
}

TEST_F(LiveFilesTest, WhatMayNotBeOldIsMadeByEachRead) {
  subject_.share_ns = 0;
  for (int made = 1; made <= 100; ++made)
    ASSERT_EQ(read(files_.open()), "made " + std::to_string(made));
}

TEST_F(LiveFilesTest, NothingIsSharedBetweenContainersGenerationsAndFiles) {
  read(files_.open());
  const auto other = std::make_shared<int>(0);
  for (const LiveFiles::Subject& subject :
       {LiveFiles::Subject{other, 1, 77}, LiveFiles::Subject{container_, 2, 77},
        LiveFiles::Subject{container_, 2, 78}}) {
    const int before = made_;
    ASSERT_TRUE(files_.take_snapshot(files_.open(), subject, counted()));
    EXPECT_EQ(made_, before + 1);
  }
}

TEST_F(LiveFilesTest, AContainerIsNotKeptAlive) {
  read(files_.open());
  const std::weak_ptr<int> watch = container_;
  container_.reset();
  EXPECT_TRUE(watch.expired());
}

TEST_F(LiveFilesTest, AnUnknownHandleGetsATextAtAnyOffset) {
  EXPECT_EQ(read(123456789, 4096), "made 1");
  files_.release(987654321);
}

TEST_F(LiveFilesTest, AFailureLeavesTheOldSnapshot) {
  const std::uint64_t handle = files_.open();
  read(handle);
  expire();
  const auto failing = []() -> Result<std::string> { return fail(EIO, "no"); };
  EXPECT_EQ(files_.take_snapshot(handle, subject_, failing).error().code, EIO);
  EXPECT_EQ(read(handle, 1), "made 1");
}

TEST_F(LiveFilesTest, ARequestThatMayHaveBeenAnsweredIsAnsweredAlikeByTheNextServer) {
  const auto memory = std::make_unique<Snapshots::Memory>();
  Snapshots outliving(memory.get());
  files_.set_snapshots(&outliving);
  const std::uint64_t handle = files_.open();
  ASSERT_EQ(**files_.take_snapshot(handle, subject_, counted(), 7), "made 1");
  LiveFiles next;
  next.set_snapshots(&outliving);
  expire();
  EXPECT_EQ(**next.take_snapshot(handle, subject_, counted(), 7), "made 1");
  EXPECT_EQ(*next.snapshot(handle), "made 1");
  EXPECT_EQ(**next.take_snapshot(handle, subject_, counted(), 8), "made 2");
  EXPECT_EQ(*next.snapshot(handle), "made 2");
}

TEST_F(LiveFilesTest, SnapshotsAreBoundedAndTheFirstOpenedGoFirst) {
  const auto large = []() -> Result<std::string> { return std::string(1U << 20, 'x'); };
  std::vector<std::uint64_t> handles;
  for (std::uint64_t i = 0; i < 256; ++i) {
    handles.push_back(files_.open());
    ASSERT_TRUE(files_.take_snapshot(handles.back(), {container_, 1, i}, large));
  }
  EXPECT_LE(files_.bytes(), 64U << 20);
  EXPECT_EQ(read(handles.front(), 5), "made 1") << "made again";
  const Text last = files_.snapshot(handles.back());
  EXPECT_EQ(last->size(), 1U << 20);
  for (const std::uint64_t handle : handles) files_.release(handle);
  EXPECT_EQ(files_.bytes(), 0U);
}

}  // namespace
}  // namespace umwelt::fusefs
