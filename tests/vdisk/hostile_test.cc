// SPDX-License-Identifier: Apache-2.0
// Archives and filesystems of somebody who means harm: they are refused, or stay where they belong.
#include <fcntl.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/file.h"
#include "host.h"
#include "vdisk/ext4.h"
#include "vdisk/pack.h"
#include "vdisk/template.h"
#include "vdisk/tree_writer.h"

extern "C" std::size_t __sanitizer_get_current_allocated_bytes() __attribute__((weak));

namespace umwelt::vdisk {
namespace {

namespace fs = std::filesystem;
using test::make_directory;
using test::shell;

// --- tar by hand: libarchive would not write what an attacker does
// --------------------------------

struct TarEntry {
  char type = '0';
  std::string path = {}, target = {}, data = {};
  std::uint64_t size = ~0ULL;  // ~0: of data
  unsigned mode = 0644;
};

void put_octal(std::string& header, std::size_t at, std::size_t width, std::uint64_t value) {
  if (value >= 1ULL << (3 * (width - 1))) {  // base-256
    header[at] = static_cast<char>(0x80);
    for (std::size_t i = 0; i < 8; ++i)
      header[at + width - 1 - i] = static_cast<char>(value >> (8 * i));
    return;
  }
  for (std::size_t i = width - 1; i-- > 0; value >>= 3)
    header[at + i] = static_cast<char>('0' + (value & 7));
}

std::string tar_entry(const TarEntry& e) {
  std::string h(512, '\0');
  e.path.copy(h.data(), 100);
  put_octal(h, 100, 8, e.mode);
  put_octal(h, 108, 8, 0);
  put_octal(h, 116, 8, 0);
  put_octal(h, 124, 12, e.size == ~0ULL ? e.data.size() : e.size);
  put_octal(h, 136, 12, 1700000000);
  h[156] = e.type;
  e.target.copy(h.data() + 157, 100);
  h.replace(257, 8,
            std::string("ustar\0"
                        "00",
                        8));
  put_octal(h, 329, 8, 1);
  put_octal(h, 337, 8, 3);
  unsigned sum = 8 * ' ';
  for (std::size_t i = 0; i < 512; ++i)
    if (i < 148 || i >= 156) sum += static_cast<unsigned char>(h[i]);
  put_octal(h, 148, 7, sum);
  h += e.data;
  h.resize((h.size() + 511) / 512 * 512);
  return h;
}

std::string tar(const std::vector<TarEntry>& entries) {
  std::string out;
  for (const TarEntry& e : entries) out += tar_entry(e);
  return out + std::string(1024, '\0');
}

UniqueFd memory_file(const std::string& bytes) {
  UniqueFd file(::memfd_create("archive", MFD_CLOEXEC));
  EXPECT_EQ(::pwrite(file.get(), bytes.data(), bytes.size(), 0),
            static_cast<ssize_t>(bytes.size()));
  return file;
}

Result<void> unpack_to(const std::string& path, const std::string& bytes) {
  const UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  auto writer = TreeWriter::open(directory.get(), 0);
  EXPECT_TRUE(writer);
  const UniqueFd archive = memory_file(bytes);
  UMWELT_CHECK(unpack(archive.get(), *writer));
  return writer->finish();
}

TEST(Unpack, RefusesPathsThatLeaveWithASentence) {
  const std::string path = make_directory("target");
  for (const char* bad : {"../evil", "a/../../evil", "/etc/evil", "..", "a/.."}) {
    const auto result = unpack_to(path, tar({{.path = bad, .data = "x"}}));
    ASSERT_FALSE(result) << bad;
    EXPECT_EQ(result.error().code, 0);
    EXPECT_NE(result.error().text.find(bad), std::string::npos) << result.error().text;
  }
  EXPECT_TRUE(fs::is_empty(path));
}

// Of malloc(3), whose sanitizer keeps what was freed for a while.
std::size_t allocated_bytes() {
  return __sanitizer_get_current_allocated_bytes ? __sanitizer_get_current_allocated_bytes()
                                                 : ::mallinfo2().uordblks;
}

// The same directory again and again takes no space on the disk, and must take none in memory.
TEST(Unpack, MemoryDoesNotGrowWithTheEntries) {
  const std::string path = make_directory("target");
  const UniqueFd root = *open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
  auto writer = TreeWriter::open(root.get(), 0);
  ASSERT_TRUE(writer);
  TreeEntry entry;
  entry.type = TreeEntry::Type::kDirectory;
  for (int i = 0; i < 12; ++i) entry.path += std::string(250, 'd') + "/";
  ASSERT_TRUE(writer->add(entry));
  const std::size_t before = allocated_bytes();
  for (int i = 0; i < 30000; ++i) ASSERT_TRUE(writer->add(entry));
  EXPECT_LT(allocated_bytes(), before + (10U << 20));  // 90 MB of paths
}

// A repeated whiteout costs nothing and hides nothing that its layer has made meanwhile.
TEST(Unpack, OpaqueAgainAndAgain) {
  const std::string path = make_directory("target");
  const UniqueFd root = *open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
  auto writer = TreeWriter::open(root.get(), 0);
  ASSERT_TRUE(writer);
  const auto add = [&](const std::string& path_of_entry) {
    TreeEntry entry;
    entry.path = path_of_entry;
    return writer->add(entry);
  };
  const auto time_repeats = [&](const std::string& entry) {
    const std::clock_t begin = std::clock();
    for (int i = 0; i < 5000; ++i) EXPECT_TRUE(add(entry));
    return std::clock() - begin;
  };
  TreeEntry link;
  link.type = TreeEntry::Type::kSymlink;
  link.path = "a";
  link.target = "b";
  for (const char* lower : {"a/lower", "b/lower"}) ASSERT_TRUE(add(lower));
  writer->begin_layer();
  ASSERT_TRUE(add("a/.wh..wh..opq"));
  EXPECT_FALSE(fs::exists(path + "/a/lower"));
  const std::clock_t when_empty = time_repeats("a/.wh..wh..opq");
  for (int i = 0; i < 3000; ++i) ASSERT_TRUE(add("a/" + std::to_string(i)));
  EXPECT_LT(time_repeats("a/.wh..wh..opq"), 10 * when_empty);
  EXPECT_TRUE(fs::exists(path + "/a/2999"));
  // The path is that of another directory now.
  ASSERT_TRUE(writer->add(link));
  ASSERT_TRUE(add("a/.wh..wh..opq"));
  EXPECT_FALSE(fs::exists(path + "/b/lower"));
  ASSERT_TRUE(add("b/new"));
  writer->begin_layer();
  ASSERT_TRUE(add("b/.wh..wh..opq"));
  EXPECT_FALSE(fs::exists(path + "/b/new"));
}

TEST(Unpack, SymlinksAreFollowedInsideOnly) {
  const std::string path = make_directory("target"), outside = make_directory("outside");
  // As in an image: /lib -> /usr/lib.
  ASSERT_TRUE(unpack_to(path, tar({{.type = '5', .path = "usr/lib", .mode = 0755},
                                   {.type = '2', .path = "lib", .target = "/usr/lib"},
                                   {.path = "lib/x", .data = "in"}})));
  EXPECT_EQ(*read_file(path + "/usr/lib/x"), "in");
  const auto evil = unpack_to(path, tar({{.type = '2', .path = "out", .target = outside},
                                         {.path = "out/evil", .data = "x"}}));
  ASSERT_FALSE(evil);
  EXPECT_EQ(evil.error().code, 0) << evil.error().message();
  for (const char* up : {"../../../../../../../../tmp", "../outside"})
    (void)unpack_to(
        path, tar({{.type = '2', .path = "up", .target = up}, {.path = "up/evil", .data = "x"}}));
  EXPECT_TRUE(fs::is_empty(outside));
  EXPECT_FALSE(fs::exists("/tmp/evil"));
}

TEST(Unpack, HardLinksAndWhiteoutsStayInside) {
  const std::string path = make_directory("target"), outside = make_directory("outside");
  std::ofstream(outside + "/secret") << "secret";
  EXPECT_FALSE(unpack_to(path, tar({{.type = '1', .path = "l", .target = "../outside/secret"}})));
  EXPECT_FALSE(unpack_to(path, tar({{.type = '1', .path = "l", .target = outside + "/secret"}})));
  EXPECT_FALSE(unpack_to(path, tar({{.type = '2', .path = "out", .target = outside},
                                    {.type = '1', .path = "l", .target = "out/secret"}})));
  for (const char* name : {".wh...", ".wh..", ".wh."})
    EXPECT_FALSE(unpack_to(path, tar({{.path = name}}))) << name;
  (void)unpack_to(path, tar({{.type = '2', .path = "o2", .target = outside},
                             {.path = "o2/.wh.secret"},
                             {.path = "o2/.wh..wh..opq"}}));
  EXPECT_EQ(*read_file(outside + "/secret"), "secret");
}

TEST(Unpack, ImpossibleSizes) {
  const std::string path = make_directory("target");
  for (const std::uint64_t size : {1ULL << 60, 1ULL << 41, ~0ULL >> 1}) {
    const auto result = unpack_to(path, tar({{.path = "big", .data = "x", .size = size}}));
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, 0) << result.error().message();
  }
  // One that is possible, of an archive that is cut off.
  EXPECT_FALSE(unpack_to(path, tar({{.path = "big", .data = "x", .size = 1ULL << 30}})));
  EXPECT_FALSE(unpack_to(path, "this is no archive, however long it may be"));
  EXPECT_FALSE(unpack_to(path, ""));
}

TEST(Unpack, DeepNestingThroughSymlinksIsRefused) {
  const std::string path = make_directory("target");
  std::vector<TarEntry> entries;
  std::string deep = "d";
  for (int i = 0; i < 40; ++i) deep += "/d";
  entries.push_back({.type = '5', .path = deep, .mode = 0755});
  std::string previous = deep;
  for (int i = 0; i < 20; ++i) {
    const std::string link = "s" + std::to_string(i);
    entries.push_back({.type = '2', .path = link, .target = previous});
    entries.push_back({.type = '5', .path = link + "/" + deep.substr(0, 60), .mode = 0755});
    previous = link + "/" + deep.substr(0, 60);
  }
  const auto result = unpack_to(path, tar(entries));
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().text.find("too deep"), std::string::npos) << result.error().message();
}

// Every combination that a few bad habits make; what matters is what is outside afterwards.
TEST(Unpack, TenThousandHostileArchives) {
  const auto host = test::HostFilesystem::make("tmpfs", 0);
  const std::string root = host->path() + "/fuzz";
  const std::string target = root + "/target", outside = root + "/outside";
  fs::create_directories(outside + "/dir");
  std::ofstream(outside + "/file") << "untouched";
  const auto stamp = [&] {
    std::string text;
    EXPECT_EQ(
        shell("cd " + root +
                  " && find . -mindepth 1 -path ./target -prune -o -printf '%p %y %m %U %s %C@\\n'"
                  " -type f -exec sha256sum {} + | sort",
              &text),
        0);
    return text;
  };
  const std::string before = stamp();
  const char* words[] = {"a",     "b",  "..", ".", "",        "c",    ".wh.a", ".wh..wh..opq",
                         ".wh..", "..", "/",  "a", "outside", "file", "dir"};
  const std::string targets[] = {
      "..",   "../..", "/",          outside,           outside + "/file",   "a",
      "b/..", ".",     "../outside", "../outside/file", "../../outside/dir", "a/b/c",
      ""};
  const char types[] = {'0', '1', '2', '3', '4', '5', '6', '7', 'x', 'g', 'L', 'K', 'S'};
  std::mt19937 random(20160401);
  const auto pick = [&random](std::size_t n) { return random() % n; };
  unsigned good = 0;
  for (unsigned round = 0; round < 10000; ++round) {
    fs::create_directories(target);
    std::vector<TarEntry> entries(1 + pick(8));
    for (TarEntry& e : entries) {
      e.type = pick(4) != 0 ? types[pick(6)] : types[pick(std::size(types))];
      for (std::size_t i = 1 + pick(4); i-- > 0;)
        e.path += std::string(words[pick(std::size(words))]) + (i > 0 ? "/" : "");
      e.target = targets[pick(std::size(targets))];
      if (e.type == '0') e.data.assign(pick(2000), 'x');
      if (pick(30) == 0) e.size = 1ULL << pick(63);
      e.mode = static_cast<unsigned>(pick(010000));
    }
    std::string bytes = tar(entries);
    if (pick(3) == 0)
      for (std::size_t i = 1 + pick(8); i-- > 0;)
        bytes[pick(bytes.size())] = static_cast<char>(random());
    if (pick(10) == 0) bytes.resize(pick(bytes.size()));
    good += unpack_to(target, bytes).has_value();
    fs::remove_all(target);
  }
  EXPECT_EQ(stamp(), before);
  EXPECT_GT(good, 100u);  // else the archives are too bad to reach the interesting places
  EXPECT_LT(good, 9900u);
}

// The same for what files on disk say of themselves.
TEST(Headers, TenThousandDamagedFilesystems) {
  auto made = make_template(64 << 20, Class::kThin);
  ASSERT_TRUE(made) << made.error().message();
  const std::string text = serialize(*made);
  const UniqueFd file(::memfd_create("ext4", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 64 << 20), 0);
  const auto restore = [&] {
    const char* data = made->data.data();
    for (const Extent& e : made->extents) {
      ASSERT_EQ(::pwrite(file.get(), data, e.size, static_cast<off_t>(e.offset)),
                static_cast<ssize_t>(e.size));
      data += e.size;
    }
  };
  std::mt19937 random(1);
  unsigned refused = 0;
  for (unsigned round = 0; round < 10000; ++round) {
    if (round % 50 == 0) restore();
    const std::uint64_t block = random() % 3 == 0 ? random() % 8192 : random() % 2048;
    const char byte = static_cast<char>(random());
    ASSERT_EQ(::pwrite(file.get(), &byte, 1, static_cast<off_t>(1024 + block)), 1);
    const auto superblock = read_superblock(file.get());
    if (!superblock) {
      ++refused;
      continue;
    }
    if (superblock->groups() > 16) continue;  // good for seconds, not for harm
    (void)superblock->overhead_blocks();
    (void)read_used_blocks(file.get(), *superblock);
    (void)read_metadata_blocks(file.get(), *superblock);
    if (round % 20 == 0) {
      std::string damaged = text;
      damaged[random() % 3000 % damaged.size()] ^= static_cast<char>(1 + random() % 255);
      EXPECT_FALSE(deserialize(damaged));
    }
  }
  EXPECT_GT(refused, 100u);
}

}  // namespace
}  // namespace umwelt::vdisk
