// SPDX-License-Identifier: Apache-2.0
#include "cgroup/tasks.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/cgroupstats.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>

#include <cstring>

#include "cgroup/cgroupstats.h"
#include "cgroup/reader.h"
#include "tree.h"

namespace umwelt::cgroup {
namespace {

class TasksOfTree : public testing::Test {
 protected:
  TasksOfTree() { hierarchies_.v2 = "/cg"; }
  void task(unsigned id, char state) {
    const std::string name = std::to_string(id);
    tree_.write("proc/" + name + "/task/" + name + "/stat",
                name + " (a) b (c) " + state + " 1 1 1\n");
  }
  Tasks read() {
    auto reader = Reader::open(hierarchies_, {{"", "/a"}}, tree_.root());
    EXPECT_TRUE(reader);
    auto state = reader->read(kTasks);
    EXPECT_TRUE(state) << state.error().message();
    return *state->tasks;
  }
  Tree tree_;
  Hierarchies hierarchies_;
};

TEST_F(TasksOfTree, DescendantsAreIncluded) {
  tree_.write("cg/a/cgroup.procs", "1\n");
  tree_.write("cg/a/cgroup.threads", "1\n2\n");
  tree_.write("cg/a/x/cgroup.procs", "3\n");
  tree_.write("cg/a/x/cgroup.threads", "3\n");
  tree_.write("cg/a/x/y/cgroup.procs", "4\n5\n");
  tree_.write("cg/a/x/y/cgroup.threads", "4\n5\n6\n");
  task(1, 'S'), task(2, 'R'), task(3, 'D'), task(4, 'R'), task(5, 'T');  // 6 has ended
  const Tasks tasks = read();
  EXPECT_EQ(tasks.total, 6u);
  EXPECT_EQ(tasks.processes, 4u);
  EXPECT_EQ(tasks.running, 2u);
  EXPECT_EQ(tasks.uninterruptible, 1u);
}

TEST_F(TasksOfTree, TheNewestIsTheNextBelowTheIdGivenOutLast) {
  tree_.write("cg/a/cgroup.procs", "300\n20\n32000\n");
  tree_.write("cg/a/cgroup.threads", "300\n301\n20\n32000\n");
  task(300, 'S');
  EXPECT_EQ(read().newest, 32000u);
  tree_.write("proc/loadavg", "0.00 0.00 0.00 1/5 400\n");  // it began anew after 32768
  EXPECT_EQ(read().newest, 301u);
  tree_.write("proc/loadavg", "0.00 0.00 0.00 1/5 10\n");
  EXPECT_EQ(read().newest, 32000u);
}

TEST_F(TasksOfTree, PidsCurrentIsTheTotal) {
  tree_.write("cg/a/cgroup.procs", "1\n");
  tree_.write("cg/a/cgroup.threads", "1\n");
  tree_.write("cg/a/pids.current", "7\n");  // with zombies, which are in no list
  task(1, 'R');
  EXPECT_EQ(read().total, 7u);
}

TEST_F(TasksOfTree, ManyThreadsAreSampled) {
  std::string threads;
  constexpr unsigned kThreads = TasksReader::kMaxThreads + TasksReader::kMaxThreads / 2;
  for (unsigned id = 1; id <= kThreads; ++id) {
    threads += std::to_string(id) + "\n";
    task(id, id <= kThreads / 2 ? 'R' : 'S');
  }
  tree_.write("cg/a/cgroup.threads", threads);
  const Tasks tasks = read();
  EXPECT_EQ(tasks.total, kThreads);
  EXPECT_NEAR(static_cast<double>(tasks.running), kThreads / 2.0, 3.0);
}

TEST_F(TasksOfTree, NoMoreCgroupsAreVisitedThanTheBound) {
  tree_.write("cg/a/cgroup.procs", "1\n");
  for (unsigned i = 0; i < TasksReader::kMaxCgroups + 50; ++i)
    tree_.write("cg/a/" + std::to_string(i) + "/cgroup.procs", "2\n");
  EXPECT_EQ(read().processes, TasksReader::kMaxCgroups + 1);
}

std::string answer(std::uint32_t sequence, std::uint16_t attribute = 1, std::uint16_t type = 30) {
  const cgroupstats stats{10, 2, 3, 4, 5};
  const nlattr header{sizeof(nlattr) + sizeof(stats), attribute};
  const genlmsghdr generic{CGROUPSTATS_CMD_NEW, 1, 0};
  const nlmsghdr message{sizeof(nlmsghdr) + sizeof(generic) + sizeof(header) + sizeof(stats), type,
                         0, sequence, 0};
  std::string text;
  const auto append = [&](const auto& value) {
    text.append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  append(message), append(generic), append(header), append(stats);
  return text;
}

TEST(ParseCgroupstats, ReadsTheAnswer) {
  const auto states = parse_cgroupstats(answer(7), 7);
  ASSERT_TRUE(states) << states.error().message();
  EXPECT_EQ(states->sleeping, 10u);
  EXPECT_EQ(states->running, 2u);
  EXPECT_EQ(states->stopped, 3u);
  EXPECT_EQ(states->uninterruptible, 4u);
  EXPECT_EQ(states->io_wait, 5u);
}

TEST(ParseCgroupstats, TellsOldAnswersAndErrors) {
  EXPECT_EQ(parse_cgroupstats(answer(6), 7).error().code, EAGAIN);
  EXPECT_EQ(parse_cgroupstats(answer(7, 9), 7).error().code, EBADMSG);
  std::string error = answer(7, 1, NLMSG_ERROR);
  const std::int32_t code = -ENOENT;
  std::memcpy(error.data() + sizeof(nlmsghdr), &code, sizeof(code));
  EXPECT_EQ(parse_cgroupstats(error, 7).error().code, ENOENT);
}

TEST(ParseCgroupstats, CutMessagesAreRefused) {
  const std::string whole = answer(7);
  for (std::size_t size = 0; size < whole.size(); ++size)
    EXPECT_FALSE(parse_cgroupstats(std::string_view(whole).substr(0, size), 7)) << size;
}

TEST(Cgroupstats, OnlyV1DirectoriesAreCgroups) {
  auto opened = Cgroupstats::open();
  if (!opened) GTEST_SKIP() << "needs cgroupstats: " << opened.error().message();
  const UniqueFd fd(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  EXPECT_EQ(opened->read(fd.get()).error().code, EINVAL);
}

}  // namespace
}  // namespace umwelt::cgroup
