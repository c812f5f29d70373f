// SPDX-License-Identifier: Apache-2.0
#include "vdisk/ext4.h"

#include <gtest/gtest.h>

namespace umwelt::vdisk {
namespace {

void put(std::string& bytes, std::size_t at, std::uint64_t value, unsigned size) {
  for (unsigned i = 0; i < size; ++i) bytes[at + i] = static_cast<char>(value >> (8 * i));
}

// A small but complete superblock: 2 groups of 32,768 blocks of 4 KiB.
std::string superblock() {
  std::string b(1024, '\0');
  put(b, 0x38, 0xEF53, 2);
  put(b, 0x0, 1024, 4);       // inodes
  put(b, 0x4, 65536, 4);      // blocks
  put(b, 0xC, 60000, 4);      // free blocks
  put(b, 0x10, 1000, 4);      // free inodes
  put(b, 0x18, 2, 4);         // 4 KiB
  put(b, 0x20, 32768, 4);     // blocks a group
  put(b, 0x28, 512, 4);       // inodes a group
  put(b, 0x3A, 1, 2);         // clean
  put(b, 0x58, 256, 2);       // inode size
  put(b, 0x5C, 0x4, 4);       // has_journal
  put(b, 0x60, 0x80, 4);      // 64bit
  put(b, 0x64, 0x1, 4);       // sparse_super
  put(b, 0xFE, 64, 2);        // descriptor size
  put(b, 0x14C, 4 << 20, 4);  // journal size
  return b;
}

TEST(Join, TouchingAndNear) {
  EXPECT_EQ(join({{8, 4}, {0, 4}, {4, 2}}), (std::vector<Extent>{{0, 6}, {8, 4}}));
  EXPECT_EQ(join({{8, 4}, {0, 4}, {4, 2}}, 2), (std::vector<Extent>{{0, 12}}));
  EXPECT_EQ(join({{0, 10}, {2, 3}}), (std::vector<Extent>{{0, 10}}));
  EXPECT_TRUE(join({}).empty());
}

TEST(Superblock, Fields) {
  const auto s = parse_superblock(superblock());
  ASSERT_TRUE(s) << s.error().message();
  EXPECT_EQ(s->blocks, 65536u);
  EXPECT_EQ(s->free_blocks, 60000u);
  EXPECT_EQ(s->block_bytes, 4096u);
  EXPECT_EQ(s->groups(), 2u);
  EXPECT_EQ(s->inode_table_blocks(), 32u);
  EXPECT_EQ(s->journal_bytes, 4u << 20);
  EXPECT_FALSE(s->needs_recovery);
  // Both groups have a superblock and one block of descriptors, bitmaps and an inode table.
  EXPECT_EQ(s->overhead_blocks(), 1024u + 2 * (1 + 1 + 2 + 32));
}

TEST(Superblock, SizesAbove32Bits) {
  std::string b = superblock();
  put(b, 0x150, 1, 4);
  put(b, 0x158, 1, 4);
  const auto s = parse_superblock(b);
  ASSERT_TRUE(s);
  EXPECT_EQ(s->blocks, (1ULL << 32) + 65536);
  EXPECT_EQ(s->free_blocks, (1ULL << 32) + 60000);
}

TEST(Superblock, SoManyGroupsThatNoLoopWouldEnd) {
  std::string b = superblock();
  put(b, 0x150, 1U << 20, 4);
  EXPECT_FALSE(parse_superblock(b));
}

TEST(Superblock, BackupsInPowersOf357) {
  const auto s = parse_superblock(superblock());
  ASSERT_TRUE(s);
  for (const unsigned group : {0, 1, 3, 5, 7, 9, 25, 27, 49, 81}) EXPECT_TRUE(s->has_backup(group));
  for (const unsigned group : {2, 4, 6, 8, 15, 21, 35, 63}) EXPECT_FALSE(s->has_backup(group));
}

struct Damage {
  const char* what;
  std::size_t at;
  std::uint64_t value;
  unsigned size;
};
class Damaged : public testing::TestWithParam<Damage> {};
TEST_P(Damaged, IsRefused) {
  std::string b = superblock();
  put(b, GetParam().at, GetParam().value, GetParam().size);
  const auto s = parse_superblock(b);
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().code, EUCLEAN);
}
INSTANTIATE_TEST_SUITE_P(
    Superblock, Damaged,
    testing::Values(Damage{"magic", 0x38, 0xEF52, 2}, Damage{"block size", 0x18, 7, 4},
                    Damage{"no blocks a group", 0x20, 0, 4},
                    Damage{"too many blocks a group", 0x20, 32769, 4},
                    Damage{"no inodes a group", 0x28, 0, 4}, Damage{"no blocks", 0x4, 0, 4},
                    Damage{"more free than there are", 0xC, 65537, 4},
                    Damage{"first block", 0x14, 2, 4}, Damage{"2^63 blocks", 0x150, 1U << 31, 4},
                    Damage{"descriptor size 0", 0xFE, 0, 2},
                    Damage{"descriptor size", 0xFE, 8192, 2}, Damage{"inode size", 0x58, 0, 2}),
    [](const auto& instance) {
      std::string name = instance.param.what;
      for (char& c : name)
        if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
      return name;
    });

TEST(Superblock, TooShort) { EXPECT_FALSE(parse_superblock(superblock().substr(0, 1023))); }

}  // namespace
}  // namespace umwelt::vdisk
