// SPDX-License-Identifier: Apache-2.0
#include "fusefs/journal.h"

#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "fusefs/snapshots.h"

namespace umwelt::fusefs {
namespace {

void put_request(const Journal::Slot& slot, std::uint64_t unique) {
  fuse_in_header header{};
  header.len = sizeof(header);
  header.unique = unique;
  std::memcpy(slot.memory(), &header, sizeof(header));
}

// Runs `body` in a process that dies of SIGKILL after it.
template <class Body>
void in_killed_process(Body body) {
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
}

TEST(Journal, WhatAKilledProcessLeftIsFoundWithItsOwner) {
  const auto fd = Journal::create();
  ASSERT_TRUE(fd);
  in_killed_process([&] {
    auto journal = Journal::map(fd->get()).value();
    static auto answered = journal->take({0, 1}), left = journal->take({1, 3}),
                waiting = journal->take({1, 4});
    put_request(*answered, 7);
    put_request(*left, 8);
    answered->clear();
    (void)journal.release();
  });
  auto journal = Journal::map(fd->get()).value();
  auto found = journal->left();
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].owner.connection, 1);
  EXPECT_EQ(found[0].owner.worker, 3);
  EXPECT_EQ(found[0].size, sizeof(fuse_in_header));
  EXPECT_EQ(reinterpret_cast<fuse_in_header*>(found[0].slot.memory())->unique, 8U);
  found.clear();  // answered
  EXPECT_TRUE(Journal::map(fd->get()).value()->left().empty());
}

TEST(Journal, ASlotInUseIsNotGivenOutAgain) {
  const auto fd = Journal::create();
  auto dead = Journal::map(fd->get()).value();
  const auto first = dead->take({0, 0});
  put_request(*first, 1);
  auto journal = Journal::map(fd->get()).value();
  auto left = journal->left();
  ASSERT_EQ(left.size(), 1U);
  std::vector<Journal::Slot> all;
  for (auto slot = journal->take({0, 0}); slot; slot = journal->take({0, 0}))
    all.push_back(*std::move(slot));
  EXPECT_EQ(all.size(), Journal::kSlots - 1);
  for (const auto& slot : all) EXPECT_NE(slot.memory(), left[0].slot.memory());
  all.pop_back();
  EXPECT_TRUE(journal->take({0, 0}));
}

TEST(Journal, KnowsTheInitRequestAndOtherLayouts) {
  const auto fd = Journal::create();
  {
    auto journal = Journal::map(fd->get()).value();
    ASSERT_TRUE(journal->set_init_request(1, "init"));
    EXPECT_FALSE(journal->set_init_request(0, std::string(1000, 'x')));
    EXPECT_EQ(journal->begin_replay(), 0U);
  }
  auto journal = Journal::map(fd->get()).value();
  EXPECT_EQ(journal->init_request(1), "init");
  EXPECT_EQ(journal->begin_replay(), 1U);
  journal->end_replay();
  EXPECT_EQ(journal->begin_replay(), 0U);
  ASSERT_EQ(::ftruncate(fd->get(), 4096), 0);
  const auto other = Journal::map(fd->get());
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, EPROTO);
}

TEST(Snapshots, OutliveTheProcessThatMadeThem) {
  const auto fd = Journal::create();
  in_killed_process([&] {
    auto journal = Journal::map(fd->get()).value();
    Snapshots snapshots(journal->snapshot_memory());
    const auto shared = std::make_shared<const std::string>("one text");
    snapshots.put(1000, shared);
    snapshots.put(1001, shared);
    snapshots.put(1002, std::make_shared<const std::string>("another"));
    (void)journal.release();
  });
  auto journal = Journal::map(fd->get()).value();
  const Snapshots snapshots(journal->snapshot_memory());
  EXPECT_EQ(snapshots.get(1000), "one text");
  EXPECT_EQ(snapshots.get(1001), "one text");
  EXPECT_EQ(snapshots.get(1002), "another");
  EXPECT_EQ(snapshots.get(1003), std::nullopt);
  EXPECT_EQ(snapshots.get(1000 + Snapshots::kEntries), std::nullopt);
}

TEST(Snapshots, ForgottenOnesTakeNoMemory) {
  const auto fd = Journal::create();
  ASSERT_TRUE(fd);
  const auto blocks = [&] {
    struct stat status {};
    EXPECT_EQ(::fstat(fd->get(), &status), 0);
    return status.st_blocks;
  };
  auto journal = Journal::map(fd->get()).value();
  Snapshots snapshots(journal->snapshot_memory());
  const auto text = std::make_shared<const std::string>(3000, 'x');
  snapshots.put(1, text);
  const auto before = blocks();
  for (std::uint64_t handle = 2; handle <= 1000; ++handle)
    snapshots.put(handle, std::make_shared<const std::string>(3000, 'y'));
  EXPECT_GT(blocks(), before + 5000);
  snapshots.clear();
  EXPECT_LE(blocks(), before);
  EXPECT_EQ(snapshots.get(1), std::nullopt);
  EXPECT_EQ(snapshots.get(1000), std::nullopt);
  snapshots.put(1001, text);  // at the place of the first, which it must not be taken for
  EXPECT_EQ(snapshots.get(1), std::nullopt);
  EXPECT_EQ(snapshots.get(1001), *text);
}

TEST(Snapshots, AnOverwrittenOneIsNotGivenOut) {
  const auto fd = Journal::create();
  auto journal = Journal::map(fd->get()).value();
  Snapshots snapshots(journal->snapshot_memory());
  const std::size_t size = 100'000;
  const std::uint64_t fit = Snapshots::kRingBytes / size;
  for (std::uint64_t i = 1; i <= 3 * fit; ++i)
    snapshots.put(i, std::make_shared<const std::string>(size, static_cast<char>('a' + i % 26)));
  EXPECT_EQ(snapshots.get(1), std::nullopt);
  for (std::uint64_t i = 1; i <= 3 * fit; ++i) {
    const auto text = snapshots.get(i);
    if (text) {
      EXPECT_EQ(*text, std::string(size, static_cast<char>('a' + i % 26)));
    } else {
      EXPECT_LE(i, 2 * fit + 2);
    }
  }
}

}  // namespace
}  // namespace umwelt::fusefs
