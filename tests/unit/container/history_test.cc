// SPDX-License-Identifier: Apache-2.0
#include "container/history.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "base/file.h"
#include "container/history_file.h"

namespace umwelt::container {
namespace {

History example() {
  History history;
  history.cpu.boottime_ns = 18446744073709551615ULL;
  history.cpu.used = {.user_ns = 1,
                      .nice_ns = 2,
                      .system_ns = 3,
                      .throttled_ns = 4,
                      .per_cpu = {{0, 5}, {8191, 6}}};
  history.cpu.before = {
      .user_ns = 50, .nice_ns = 51, .system_ns = 52, .throttled_ns = 53, .per_cpu = {}};
  history.cpu.by_id[0] = {10, 11, 12, 13, 14};
  history.cpu.by_id[5] = {20, 21, 22, 23, 24};
  history.cpu.pending = {
      .user_ns = 7, .nice_ns = 8, .system_ns = 9, .throttled_ns = 0, .per_cpu = {}};
  history.cpu.forks = 30;
  history.cpu.processes = 31;
  history.load = {.boottime_ns = 40,
                  .load1 = 0.1,
                  .load5 = 1e-9,
                  .load15 = 1000.5,
                  .busy_ns = 41,
                  .waited_ns = 44,
                  .running = 42,
                  .total = 43,
                  .last_pid = 45};
  history.io[{254, 1}] = {.last = {254, 1, 60, 61, 62, 63, 64, 65},
                          .lost = {0, 0, 70, 71, 72, 73, 74, 75}};
  return history;
}

std::vector<std::uint64_t> words_of(const History& history) {
  std::vector<std::uint64_t> words(history_size(history));
  put_history(history, words);
  return words;
}

TEST(History, SurvivesBeingWritten) {
  const auto words = words_of(example());
  const auto back = take_history(words);
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(words_of(*back), words);
  EXPECT_EQ(back->cpu.boottime_ns, example().cpu.boottime_ns);
  EXPECT_EQ(back->cpu.used.per_cpu, example().cpu.used.per_cpu);
  EXPECT_EQ(back->cpu.by_id.at(5).steal_ns, 24U);
  EXPECT_EQ(back->cpu.pending.system_ns, 9U);
  EXPECT_EQ(back->cpu.before.throttled_ns, 53U);
  EXPECT_EQ(back->cpu.processes, 31U);
  EXPECT_EQ(back->load.load1, 0.1);
  EXPECT_EQ(back->load.last_pid, 45U);
  EXPECT_EQ(back->io.at({254, 1}).last.discards, 65U);
  EXPECT_EQ(back->io.at({254, 1}).lost.read_bytes, 70U);
  EXPECT_TRUE(take_history(words_of(History{})));
}

TEST(History, AnythingElseIsRefused) {
  std::vector<std::uint64_t> words = words_of(example());
  // Cut anywhere, it is no history any more.
  for (std::size_t size = 0; size < words.size(); ++size)
    EXPECT_FALSE(take_history(std::span(words).first(size))) << size;
  words.push_back(0);
  EXPECT_FALSE(take_history(words));

  History history = example();
  history.cpu.used.per_cpu[1].first = 8192;
  EXPECT_FALSE(take_history(words_of(history)));
  history = example();
  history.cpu.by_id[8192] = {};
  EXPECT_FALSE(take_history(words_of(history)));
  for (const double bad : {-1.0, double{NAN}, std::numeric_limits<double>::infinity()}) {
    history = example();
    history.load.load5 = bad;
    EXPECT_FALSE(take_history(words_of(history))) << bad;
  }
}

class HistoryFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string folder = "/tmp/umwelt-history-XXXXXX";
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    path_ = folder_ + "/a.history";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string folder_, path_;
};

TEST_F(HistoryFileTest, HasWhatWasStoredLast) {
  {
    HistoryFile file(path_);
    const auto none = file.load();
    ASSERT_TRUE(none);
    EXPECT_FALSE(*none);
    History history;
    // It becomes longer than the file that is made for the first.
    for (unsigned cpu = 0; cpu < 2000; cpu += 100) {
      history.cpu.boottime_ns = cpu + 1;
      for (unsigned id = 0; id <= cpu; ++id) history.cpu.by_id[id].user_ns = cpu;
      ASSERT_TRUE(file.store(history));
      const auto back = HistoryFile(path_).load();
      ASSERT_TRUE(back && *back);
      EXPECT_EQ(words_of(**back), words_of(history));
    }
    ASSERT_TRUE(file.store(example()));
  }
  const auto back = HistoryFile(path_).load();
  ASSERT_TRUE(back && *back);
  EXPECT_EQ(words_of(**back), words_of(example()));
  HistoryFile::remove(path_);
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(HistoryFileTest, AnyOtherFileIsRefused) {
  ASSERT_TRUE(HistoryFile(path_).store(example()));
  const std::string good = *read_file(path_);
  const auto is_refused = [&](const std::string& text) {
    std::ofstream(path_, std::ios::trunc) << text;
    return !HistoryFile(path_).load();
  };
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{23}, std::size_t{24}, good.size() - 16})
    EXPECT_TRUE(is_refused(good.substr(0, size))) << size;
  for (std::size_t word = 0; word < 4; ++word)
    for (const char byte : {'\x7f', '\xff'}) {
      std::string text = good;
      text.replace(word * 8, 8, 8, byte);
      EXPECT_TRUE(is_refused(text)) << word;
    }
  EXPECT_FALSE(is_refused(good));
}

TEST_F(HistoryFileTest, WhereNoFileCanBeMadeTheNextOneIsTried) {
  HistoryFile file(folder_ + "/none/a.history");
  const auto failed = file.store(example());
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ENOENT);
  std::filesystem::create_directory(folder_ + "/none");
  EXPECT_TRUE(file.store(example()));
}

// The process that stores is killed at any moment: what it had stored is there, and whole.
TEST_F(HistoryFileTest, IsWholeAfterAKill) {
  void* shared = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto& stored = *new (shared) std::atomic<std::uint64_t>(0);
  std::uint64_t last = 0;
  for (int kill = 0; kill < 60; ++kill) {
    const std::uint64_t begun = stored;
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      HistoryFile file(path_);
      History history;
      for (std::uint64_t round = begun + 1;; ++round) {
        history.cpu.boottime_ns = history.load.last_pid = round;
        // It grows now and then, too.
        for (unsigned id = 0; id < 100 + round % 4096; ++id) history.cpu.by_id[id].idle_ns = round;
        if (!file.store(history)) ::_exit(1);
        stored = round;
        if (round % 4096 == 0) history.cpu.by_id.clear();
      }
    }
    siginfo_t ended{};  // by itself, which it should not
    while (stored == begun && ended.si_pid == 0) {
      ::usleep(100);
      ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOHANG | WNOWAIT), 0);
    }
    ::usleep(static_cast<useconds_t>(kill * 50));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    const auto found = HistoryFile(path_).load();
    ASSERT_TRUE(found) << found.error().message();
    ASSERT_TRUE(*found);
    const History& history = **found;
    EXPECT_GE(history.cpu.boottime_ns, stored);
    EXPECT_LE(history.cpu.boottime_ns, stored + 1);
    EXPECT_EQ(history.load.last_pid, history.cpu.boottime_ns);
    for (const auto& [id, time] : history.cpu.by_id)
      ASSERT_EQ(time.idle_ns, history.cpu.boottime_ns) << id;
    EXPECT_GT(history.cpu.boottime_ns, last);
    last = stored;
  }
  ::munmap(shared, 4096);
}

}  // namespace
}  // namespace umwelt::container
