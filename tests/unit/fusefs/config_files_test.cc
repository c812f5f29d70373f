// SPDX-License-Identifier: Apache-2.0
#include "fusefs/config_files.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <tuple>

#include "fusefs/node.h"
#include "fusefs/snapshots.h"

namespace umwelt::fusefs {
namespace {

ConfigFiles::Render text(std::string value) {
  return [value]() -> Result<std::string> { return value; };
}

Result<std::string> not_called() {
  ADD_FAILURE() << "made again";
  return std::string();
}

TEST(ConfigFiles, MakesATextOncePerGeneration) {
  ConfigFiles files;
  const Version first = *files.describe(5, {1, 0}, text("one"));
  EXPECT_EQ(*first.text, "one");
  EXPECT_EQ(files.describe(5, {1, 0}, not_called)->text, first.text);
  EXPECT_EQ(*files.describe(5, {2, 0}, text("two"))->text, "two");
}

TEST(ConfigFiles, AnotherTextHasAnotherTimeAndTheSameTextTheSame) {
  ConfigFiles files;
  timespec last{};
  for (std::uint64_t i = 1; i < 1000; ++i) {
    const Version version = *files.describe(5, {i, 0}, text(std::to_string(i / 2)));
    const bool later =
        std::tie(version.mtime.tv_sec, version.mtime.tv_nsec) > std::tie(last.tv_sec, last.tv_nsec);
    EXPECT_EQ(later, i == 1 || i % 2 == 0) << i;
    EXPECT_LT(version.mtime.tv_nsec, 1'000'000'000);
    last = version.mtime;
  }
}

// The size that the kernel has and the bytes that it reads belong together.
TEST(ConfigFiles, ContentIsWhatWasDescribedLast) {
  ConfigFiles files;
  ASSERT_TRUE(files.describe(5, {1, 0}, text("one")));
  EXPECT_EQ(**files.content(5, {2, 0}, text("two")), "one");
  ASSERT_TRUE(files.describe(5, {2, 0}, text("two")));
  EXPECT_EQ(**files.content(5, {2, 0}, not_called), "two");
  EXPECT_EQ(**files.content(6, {2, 0}, text("never described")), "never described");
}

TEST(ConfigFiles, AnOlderGenerationDoesNotReplaceANewerOne) {
  ConfigFiles files;
  const auto slow = [&]() -> Result<std::string> {
    EXPECT_TRUE(files.describe(5, {2, 0}, text("two")));
    return "one";
  };
  EXPECT_EQ(*files.describe(5, {1, 0}, slow)->text, "two");
  EXPECT_EQ(**files.content(5, {2, 0}, not_called), "two");
}

// The kernel takes one of two descriptions that were asked for at the same time, and nobody knows
// which.
TEST(ConfigFiles, UnderOneGenerationThereIsOneDescription) {
  ConfigFiles files;
  std::string first;
  const auto overtaken = [&]() -> Result<std::string> {
    first = *files.describe(5, {1, 0}, text("before a limit changed"))->text;
    return "after it changed";
  };
  const Version second = *files.describe(5, {1, 0}, overtaken);
  EXPECT_EQ(*second.text, first);
  EXPECT_EQ(**files.content(5, {1, 0}, not_called), first);
  EXPECT_EQ(*files.describe(5, {2, 0}, text("after it changed"))->text, "after it changed");
}

TEST(ConfigFiles, KnowsWhetherAnOutdatedTextWasRead) {
  ConfigFiles files;
  ASSERT_TRUE(files.describe(5, {1, 0}, text("one")));
  ASSERT_TRUE(files.content(5, {1, 0}, not_called));
  files.outdate(5);
  EXPECT_FALSE(files.was_read(5));
  EXPECT_EQ(**files.content(5, {2, 0}, not_called), "one");
  EXPECT_TRUE(files.was_read(5));
  EXPECT_FALSE(files.was_read(6));
}

TEST(ConfigFiles, AgeEndsValidity) {
  ConfigFiles files;
  ASSERT_TRUE(files.describe(5, {1, 1'000'000}, text("one")));
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_EQ(*files.describe(5, {1, 1'000'000}, text("two"))->text, "two");
  EXPECT_EQ(*files.describe(5, {1, 3'600'000'000'000}, not_called)->text, "two");
}

TEST(ConfigFiles, AFailureIsNotKept) {
  ConfigFiles files;
  const auto failing = []() -> Result<std::string> { return fail(EIO, "no"); };
  EXPECT_EQ(files.describe(5, {1, 0}, failing).error().code, EIO);
  EXPECT_EQ(*files.describe(5, {1, 0}, text("one"))->text, "one");
  EXPECT_EQ(files.describe(5, {2, 0}, failing).error().code, EIO);
  EXPECT_EQ(**files.content(5, {2, 0}, not_called), "one");
}

TEST(ConfigFiles, ForgetsOneContainer) {
  ConfigFiles files;
  const std::uint64_t one = NodeId{1, {}, 5}.value(), two = NodeId{2, {}, 5}.value();
  ASSERT_TRUE(files.describe(one, {1, 0}, text("old")));
  ASSERT_TRUE(files.describe(two, {1, 0}, text("old")));
  files.forget_container(1);
  EXPECT_EQ(**files.content(one, {1, 0}, text("new")), "new");
  EXPECT_EQ(**files.content(two, {1, 0}, not_called), "old");
}

TEST(ConfigFiles, ManyNodesCostBoundedMemory) {
  ConfigFiles files;
  for (std::uint64_t node = 0; node < 200'000; ++node) {
    const auto version = files.describe(node, {1, 0}, text("x"));
    ASSERT_TRUE(version);
    ASSERT_EQ(**files.content(node, {1, 0}, not_called), "x");
  }
  EXPECT_LE(files.size(), 16U * 4096U);
}

TEST(ConfigFiles, WhatAnEarlierProcessDescribedStaysUntilItIsOutdated) {
  const auto memory = std::make_unique<Snapshots::Memory>();
  Snapshots descriptions(memory.get());
  const std::uint64_t node = NodeId{3, {}, 77}.value(), other = NodeId{3, {}, 78}.value();
  const auto text = [](const char* words) {
    return [words]() -> Result<std::string> { return std::string(words); };
  };
  {
    ConfigFiles earlier;
    earlier.set_descriptions(&descriptions);
    ASSERT_TRUE(earlier.describe(node, {5, 0}, text("old")));
  }
  ConfigFiles files;
  files.set_descriptions(&descriptions);
  EXPECT_EQ(**files.content(node, {9, 0}, text("new")), "old");
  EXPECT_EQ(*files.describe(node, {9, 0}, text("new"))->text, "old");
  EXPECT_EQ(*files.describe(other, {9, 0}, text("new"))->text, "new");
  files.recall_all(3, 9, {node, other});
  EXPECT_FALSE(files.confirm(node, 9, "new"));
  files.outdate(node);
  EXPECT_EQ(**files.content(node, {9, 0}, text("new")), "old");  // a reader that knows its size
  EXPECT_EQ(*files.describe(node, {9, 0}, text("new"))->text, "new");
  EXPECT_EQ(**files.content(node, {9, 0}, text("x")), "new");
}

}  // namespace
}  // namespace umwelt::fusefs
