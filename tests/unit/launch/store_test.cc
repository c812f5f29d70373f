// SPDX-License-Identifier: Apache-2.0
#include "launch/store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "launch/channel.h"
#include "launch/log_file.h"

namespace umwelt::launch {
namespace {

namespace fs = std::filesystem;

class StoreTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "store_XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    runtime_ = name;
    directories_.runtime = name + "/run";
    directories_.state = name + "/state";
  }
  void TearDown() override { fs::remove_all(runtime_); }

  // Watched over by this very process, so that nobody reaps it.
  Launched make(const std::string& id, const std::string& name, std::int64_t created = 1) {
    Launched launched;
    launched.spec.id = id;
    launched.spec.name = name;
    launched.status = Status::kRunning;
    launched.monitor_pid = ::getpid();
    launched.monitor_starttime = *container::read_starttime(::getpid());
    launched.created_s = created;
    return launched;
  }

  std::string runtime_;
  container::Directories directories_;
};

TEST_F(StoreTest, CreateFindUpdateRemove) {
  Store store(directories_);
  ASSERT_TRUE(store.create(make("aa11", "web", 2)));
  ASSERT_TRUE(store.create(make("ab22", "db", 1)));
  EXPECT_EQ(store.find("web")->spec.id, "aa11");
  EXPECT_EQ(store.find("ab22")->spec.name, "db");
  EXPECT_EQ(store.find("aa")->spec.name, "web");
  EXPECT_EQ(store.find("a").error().code, ENOENT);  // fits both
  EXPECT_EQ(store.find("").error().code, ENOENT);
  EXPECT_EQ(store.find("zz").error().code, ENOENT);
  const auto all = store.all();
  ASSERT_TRUE(all);
  ASSERT_EQ(all->size(), 2U);
  EXPECT_EQ((*all)[0].spec.name, "db");  // the older one first

  EXPECT_EQ(store.remove("aa11").error().code, EBUSY);
  ASSERT_TRUE(store.update("aa11", [](Launched& l) { l.status = Status::kStopped; }));
  EXPECT_TRUE(store.remove("aa11"));
  EXPECT_EQ(store.find("web").error().code, ENOENT);
  EXPECT_FALSE(fs::exists(store.directory("aa11")));
  EXPECT_EQ(store.update("aa11", [](Launched&) {}).error().code, ENOENT);
}

TEST_F(StoreTest, NamesAndIdsAreTakenOnce) {
  Store store(directories_);
  ASSERT_TRUE(store.create(make("aa11", "web")));
  EXPECT_EQ(store.create(make("bb22", "web")).error().code, EEXIST);
  EXPECT_EQ(store.create(make("aa11", "other")).error().code, EEXIST);
  EXPECT_EQ(store.create(make("bb22", "aa11")).error().code, EEXIST);
  EXPECT_EQ(store.create(make("../x", "x")).error().code, EINVAL);
  EXPECT_TRUE(store.create(make("bb22", "db")));
}

TEST_F(StoreTest, DamagedStateHidesNoOther) {
  Store store(directories_);
  ASSERT_TRUE(store.create(make("aa11", "web")));
  for (const char* text : {"", "{", "[]", "{\"spec\":{\"id\":\"aa11\"}}"}) {
    fs::create_directories(store.directory("bb22"));
    std::ofstream(store.directory("bb22") + "/state.json") << text;
    const auto all = store.all();
    ASSERT_TRUE(all);
    EXPECT_EQ(all->size(), 1U) << text;
  }
}

TEST_F(StoreTest, ReapRemovesWhatACrashLeftHalfMade) {
  Store store(directories_);
  ASSERT_TRUE(store.create(make("aa11", "web")));
  fs::create_directories(directories_.launched() + "/~bb22");
  EXPECT_TRUE(store.reap());
  EXPECT_FALSE(fs::exists(directories_.launched() + "/~bb22"));
  EXPECT_TRUE(store.find("web"));
}

TEST_F(StoreTest, NothingIsNoError) {
  Store store(directories_);
  EXPECT_TRUE(store.reap());
  EXPECT_TRUE(store.all()->empty());
  EXPECT_FALSE(fs::exists(directories_.runtime));
}

TEST(Monitored, OnlyByTheSameProcess) {
  Launched launched;
  launched.monitor_pid = ::getpid();
  launched.monitor_starttime = *container::read_starttime(::getpid());
  EXPECT_TRUE(monitored(launched));
  ++launched.monitor_starttime;
  EXPECT_FALSE(monitored(launched));
  EXPECT_FALSE(monitored(Launched{}));
}

TEST_F(StoreTest, LogHasLinesAndIsBounded) {
  const std::string path = runtime_ + "/log";
  auto log = LogFile::open(path);
  ASSERT_TRUE(log);
  ASSERT_TRUE(log->append("stdout", "one\ntw"));
  ASSERT_TRUE(log->append("stderr", "err\xff\n"));
  ASSERT_TRUE(log->append("stdout", "o\nend"));
  ASSERT_TRUE(log->flush());
  std::vector<std::pair<std::string, std::string>> got;
  const std::string text = *read_file(path);
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    EXPECT_EQ(json["time"].get<std::string>().size(), 30U);
    got.emplace_back(json["stream"], json["log"]);
  }
  EXPECT_EQ(got, (std::vector<std::pair<std::string, std::string>>{{"stdout", "one\n"},
                                                                   {"stderr", "err\xef\xbf\xbd\n"},
                                                                   {"stdout", "two\n"},
                                                                   {"stdout", "end"}}));

  const std::string long_line(LogFile::kMaxText * 2 + 5, 'x');
  for (int i = 0; i < 700; ++i) ASSERT_TRUE(log->append("stdout", long_line));
  EXPECT_LE(fs::file_size(path), LogFile::kMaxBytes);
  EXPECT_LE(fs::file_size(path + ".1"), LogFile::kMaxBytes);
  EXPECT_FALSE(fs::exists(path + ".2"));
}

TEST(ChannelTest, CarriesSignalsErrorsAndDescriptors) {
  auto ends = Channel::make();
  ASSERT_TRUE(ends);
  auto& [parent, child] = *ends;
  ASSERT_TRUE(parent.signal());
  EXPECT_TRUE(child.wait_signal());
  ASSERT_TRUE(child.signal());
  EXPECT_TRUE(parent.receive()->signalled);
  child.send_error({Stage::kExec, {ENOENT, "it is " + std::string(9000, 'x')}});
  auto message = parent.receive();
  ASSERT_TRUE(message && message->error);
  EXPECT_EQ(message->error->stage, Stage::kExec);
  EXPECT_EQ(message->error->error.code, ENOENT);
  EXPECT_EQ(message->error->error.text.substr(0, 7), "it is x");
  ASSERT_TRUE(child.send_descriptor(Passed::kTerminal, STDERR_FILENO));
  EXPECT_TRUE(parent.receive()->terminal);
  ASSERT_TRUE(child.send_descriptor(Passed::kListener, STDERR_FILENO));
  EXPECT_TRUE(parent.receive()->listener);
  EXPECT_FALSE(child.abandoned());
  parent.close();
  EXPECT_TRUE(child.abandoned());
  EXPECT_EQ(child.wait_signal().error().code, ECANCELED);
}

TEST(ChannelTest, ClosedByExecOrDeath) {
  auto ends = Channel::make();
  ASSERT_TRUE(ends);
  auto& [parent, child] = *ends;
  ASSERT_TRUE(parent.signal());  // never read
  child.send_error({Stage::kLauncher, {EIO, "last words"}});
  child.close();
  const auto message = parent.receive();
  ASSERT_TRUE(message && message->error);
  EXPECT_EQ(message->error->error.text, "last words");
  EXPECT_TRUE(parent.receive()->closed);
}

}  // namespace
}  // namespace umwelt::launch
