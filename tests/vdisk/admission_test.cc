// SPDX-License-Identifier: Apache-2.0
// What the store lets in, and what many make at the same moment, on each host filesystem.
#include <algorithm>
#include <atomic>
#include <thread>

#include "base/file.h"
#include "host.h"
#include "vdisk/image_file.h"
#include "vdisk/ready.h"
#include "vdisk/store.h"
#include "vdisk/tool.h"

namespace umwelt::vdisk {
namespace {

using test::idle;
using test::shell;
using test::wish;

constexpr std::uint64_t kMiB = 1ULL << 20, kGiB = 1ULL << 30;

class AdmissionTest : public test::OnEachHost {};
UMWELT_ON_EACH_HOST(AdmissionTest);

TEST_P(AdmissionTest, ARefusedCapacityMakesNoTemplate) {
  const std::string templates = test::make_directory("no-templates");
  const auto store = Store::open(host->path() + "/vdisks", templates, {});
  ASSERT_TRUE(store);
  const auto refused = [&](const Result<void>& result) {
    return !result && result.error().code == 0 &&
           result.error().text.starts_with("the pool is full");
  };
  EXPECT_TRUE(refused(store->create(wish(64ULL << 40), "a")));
  EXPECT_TRUE(refused(store->admit(wish(64ULL << 40), 0)));
  // The inode tables alone are more than there is.
  if (GetParam() == std::string("root")) GTEST_SKIP() << "needs ext4: / may have room for them";
  const auto generous = Store::open(host->path() + "/vdisks", templates, {.overcommit = 1000.0});
  const std::uint64_t most = generous->sums()->promisable_bytes() / kMiB * kMiB;
  const auto low = generous->create(wish(std::min<std::uint64_t>(most, 60ULL << 40)), "a");
  ASSERT_FALSE(low);
  EXPECT_NE(low.error().text.find("low-water mark"), std::string::npos) << low.error().text;
  EXPECT_TRUE(read_names_at(AT_FDCWD, templates)->empty());
  for (const std::uint64_t bytes : {32 * kMiB, 300 * kMiB, 10 * kGiB, 100 * kGiB}) {
    const auto t = make_template(bytes, Class::kThin);
    ASSERT_TRUE(t);
    EXPECT_LE(least_metadata_bytes(bytes), t->metadata_bytes());
    EXPECT_GE(least_metadata_bytes(bytes) + 80 * kMiB, t->metadata_bytes());
  }
}

TEST_P(AdmissionTest, ManyCreateOneOfANewCapacity) {
  const std::string templates = test::make_directory("new-templates");
  const auto create_all = [&](std::uint64_t bytes, const std::string& folder) {
    std::vector<std::thread> threads;
    for (int i = 0; i < 6; ++i)
      threads.emplace_back([&, i] {
        const auto store = Store::open(host->path() + "/vdisks", folder, {});
        ASSERT_TRUE(store);
        const auto made =
            store->create(wish(bytes), std::to_string(bytes) + "-" + std::to_string(i));
        EXPECT_TRUE(made) << made.error().message();
      });
    for (std::thread& t : threads) t.join();
  };
  for (std::uint64_t size = 40; size < 44; ++size) create_all(size * kMiB, templates);
  EXPECT_EQ(read_names_at(AT_FDCWD, templates)->size(), 4u);
  // What can't be kept for the next one is used all the same.
  ASSERT_EQ(shell("touch " + templates + "/file"), 0);
  create_all(44 * kMiB, templates + "/file");
  EXPECT_EQ(open().list()->size(), 30u);
}

TEST_P(AdmissionTest, TemplatesThatNobodyUsesGo) {
  const std::string folder = test::make_directory("old-templates");
  Templates templates(folder);
  for (const std::uint64_t size : {40, 41}) ASSERT_TRUE(templates.get(size * kMiB, Class::kThin));
  ASSERT_EQ(shell("cd " + folder +
                  " && for f in ext4-*; do cp $f $f.a1b2c3.new; cp $f $f-1; done; "
                  "touch -a -d '40 days ago' ext4-42991616-*; touch mine"),
            0);
  ASSERT_TRUE(templates.tidy());
  const auto left = *read_names_at(AT_FDCWD, folder);
  EXPECT_EQ(left.size(), 2u);
  EXPECT_TRUE(std::any_of(left.begin(), left.end(), [](const std::string& name) {
    return name.starts_with("ext4-41943040-journal-");
  }));
  EXPECT_TRUE(Templates(folder + "/absent").tidy());
}

TEST_P(AdmissionTest, GrowthIsAdmittedWithItsMetadata) {
  if (GetParam() == std::string("root")) GTEST_SKIP() << "needs ext4: others write to / as well";
  ASSERT_TRUE(open().create(wish(64 * kMiB), "a"));
  const Store store =
      open({.overcommit = 1000.0, .low_water_bytes = open().sums()->free_bytes - 60 * kMiB});
  ASSERT_FALSE(store.create(wish(16 * kGiB), "b"));
  const auto refused = store.resize("a", 16 * kGiB);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().text.find("low-water mark"), std::string::npos);
  EXPECT_EQ(store.usage("a")->capacity_bytes, 64 * kMiB);
  EXPECT_TRUE(store.resize("a", 128 * kMiB));
}

TEST_P(AdmissionTest, CopiesMadeAtOnceDoNotFillTheHost) {
  if (GetParam() == std::string("root")) GTEST_SKIP() << "needs ext4: others write to / as well";
  ASSERT_TRUE(open().create(wish(400 * kMiB), "a"));
  {
    const auto disk = open().attach("a");
    ASSERT_TRUE(disk);
    const std::string upper = path_of(disk->mount()) + "/upper";
    ASSERT_EQ(shell("head -c 200M /dev/urandom > " + upper + "/f; sync -f " + upper), 0);
  }
  ASSERT_TRUE(idle(open(), "a"));
  const std::uint64_t low_water = open().sums()->free_bytes - 300 * kMiB;
  const Store store = open({.overcommit = 10.0, .low_water_bytes = low_water});
  std::atomic<unsigned> made{0}, refused{0}, copied{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&, i] {
      const auto copy = store.copy("a", "copy" + std::to_string(i), false,
                                   [&](std::uint64_t, std::uint64_t) { ++copied; });
      if (copy) {
        ++made;
        return;
      }
      EXPECT_NE(copy.error().text.find("low-water mark"), std::string::npos)
          << copy.error().message();
      ++refused;
    });
  for (std::thread& t : threads) t.join();
  if (copied == 0) GTEST_SKIP() << "needs a copy that takes space: this one is a reflink";
  EXPECT_EQ(made, 1u);
  EXPECT_EQ(refused, 2u);
  EXPECT_GE(store.sums()->free_bytes, low_water);
}

TEST_P(AdmissionTest, GuaranteedOnesMadeAtOnceDoNotFillTheHost) {
  if (GetParam() == std::string("root")) GTEST_SKIP() << "needs ext4: others write to / as well";
  if (GetParam() == std::string("btrfs")) GTEST_SKIP() << "needs ext4: free space is told late";
  const std::uint64_t low_water = open().sums()->free_bytes - 900 * kMiB;
  const Store store = open({.overcommit = 10.0, .low_water_bytes = low_water});
  Record record = wish(400 * kMiB);
  record.cls = Class::kGuaranteed;
  ASSERT_TRUE(store.admit(record, 0));
  std::atomic<unsigned> made{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&, i] {
      if (const auto result = store.create(record, std::to_string(i))) {
        ++made;
      } else {
        EXPECT_EQ(result.error().code, 0) << result.error().message();
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(made, 2u);
  EXPECT_GE(store.sums()->free_bytes, low_water);
}

TEST_P(AdmissionTest, APoolOfAGivenSizeHoldsWhatHasNoNameYet) {
  const Store store = open({.size_bytes = kGiB, .low_water_bytes = 0});
  Record record = wish(600 * kMiB);
  record.cls = Class::kGuaranteed;
  auto one = store.make(record), other = store.make(record);
  ASSERT_TRUE(one && other);
  ASSERT_TRUE(store.publish(*one, "one"));
  const auto refused = store.publish(*other, "other");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().text.find("the pool"), std::string::npos) << refused.error().message();
}

TEST_P(AdmissionTest, APoolOfAGivenSizeHoldsWhatIsPrepared) {
  const Store store = open({.size_bytes = kGiB, .low_water_bytes = 100 * kMiB});
  Record record = wish(400 * kMiB);
  record.cls = Class::kGuaranteed;
  auto pool = ReadyPool::open(
      store, {.capacity_bytes = record.capacity_bytes, .cls = record.cls, .count = 3});
  ASSERT_TRUE(pool);
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(pool->refill(true));
  EXPECT_FALSE(pool->refill(true));
  const Sums prepared = *store.sums();
  EXPECT_EQ(prepared.vdisks, 0U);
  EXPECT_EQ(prepared.promised_bytes, 0U);
  EXPECT_GE(prepared.allocated_bytes, 800 * kMiB);
  EXPECT_FALSE(store.create(record, "a"));
  auto taken = store.take(record);
  ASSERT_TRUE(taken) << taken.error().message();
  ASSERT_NE(taken->ready_name(), "");
  const auto published = store.publish(*taken, "a");
  EXPECT_TRUE(published) << published.error().message();
  EXPECT_EQ(store.sums()->promised_bytes, 400 * kMiB);
}

}  // namespace
}  // namespace umwelt::vdisk
