// SPDX-License-Identifier: Apache-2.0
#include "vdisk/ext4.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace umwelt::vdisk {
namespace {

constexpr std::size_t kSuperblockOffset = 1024, kSuperblockBytes = 1024;
constexpr std::uint16_t kMagic = 0xEF53;
constexpr std::uint32_t kCompatHasJournal = 0x4, kIncompatRecover = 0x4, kIncompat64Bit = 0x80,
                        kIncompatMetaBg = 0x10, kRoCompatSparseSuper = 0x1;
constexpr std::uint16_t kGroupBlockUninit = 0x2;
// 128 TiB with 4 KiB blocks; whoever loops over the groups comes to an end.
constexpr std::uint64_t kMaxGroups = 1U << 20;

template <class T>
T little_endian(const std::string& bytes, std::size_t offset) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i)
    value = static_cast<T>(value | static_cast<T>(static_cast<unsigned char>(bytes[offset + i]))
                                       << (8 * i));
  return value;
}
std::uint16_t le16(const std::string& b, std::size_t at) {
  return little_endian<std::uint16_t>(b, at);
}
std::uint32_t le32(const std::string& b, std::size_t at) {
  return little_endian<std::uint32_t>(b, at);
}

tl::unexpected<Error> invalid(const char* what) {
  return fail(EUCLEAN, std::string("read an ext4 filesystem: ") + what);
}

Result<std::string> read_exactly(int file, std::uint64_t offset, std::size_t size) {
  std::string bytes(size, '\0');
  std::size_t done = 0;
  while (done < size) {
    const ssize_t n =
        ::pread(file, bytes.data() + done, size - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read an ext4 filesystem");
    if (n == 0) return invalid("it is cut off");
    done += static_cast<std::size_t>(n);
  }
  return bytes;
}

struct Group {
  std::uint64_t descriptor_block = 0, block_bitmap = 0, inode_bitmap = 0, inode_table = 0;
  bool block_uninit = false;  // its bitmap was never written
};

std::uint64_t block_number(const std::string& table, std::size_t descriptor, std::size_t low,
                           const Superblock& s) {
  std::uint64_t block = le32(table, descriptor + low);
  if (s.descriptor_bytes >= 64)
    block |= static_cast<std::uint64_t>(le32(table, descriptor + low + 0x20)) << 32;
  return block;
}

// Where block `index` of the descriptors is: after the superblock, or (meta_bg) in the first of the
// groups that it describes.
std::uint64_t descriptor_block(const Superblock& s, std::uint64_t index) {
  if (index < s.first_meta_bg) return s.first_data_block + 1 + index;
  const std::uint64_t group = index * (s.block_bytes / s.descriptor_bytes);
  return s.first_data_block + group * s.blocks_per_group + (s.has_backup(group) ? 1 : 0);
}

Result<std::vector<Group>> read_groups(int file, const Superblock& s) {
  const std::uint64_t a_block = s.block_bytes / s.descriptor_bytes;
  std::vector<Group> groups;
  std::string table;
  for (std::uint64_t number = 0; number < s.groups(); ++number) {
    Group group;
    group.descriptor_block = descriptor_block(s, number / a_block);
    if (number % a_block == 0)
      table = UMWELT_TRY(read_exactly(file, group.descriptor_block * s.block_bytes, s.block_bytes));
    const std::size_t at = static_cast<std::size_t>(number % a_block) * s.descriptor_bytes;
    group.block_bitmap = block_number(table, at, 0x0, s);
    group.inode_bitmap = block_number(table, at, 0x4, s);
    group.inode_table = block_number(table, at, 0x8, s);
    group.block_uninit = le16(table, at + 0x12) & kGroupBlockUninit;
    const std::uint64_t last = std::max(
        {group.block_bitmap, group.inode_bitmap, group.inode_table + s.inode_table_blocks() - 1});
    if (last >= s.blocks || group.descriptor_block >= s.blocks)
      return invalid("a group's metadata lies outside");
    groups.push_back(group);
  }
  return groups;
}

// The set bits of one group's bitmap as extents.
void append_used(const std::string& bitmap, std::uint64_t first_block, std::uint64_t blocks,
                 std::uint64_t block_bytes, std::vector<Extent>& used) {
  for (std::uint64_t i = 0; i < blocks; ++i) {
    if ((static_cast<unsigned char>(bitmap[i / 8]) >> (i % 8) & 1) == 0) continue;
    const std::uint64_t offset = (first_block + i) * block_bytes;
    if (!used.empty() && used.back().end() == offset)
      used.back().size += block_bytes;
    else
      used.push_back({offset, block_bytes});
  }
}

}  // namespace

std::vector<Extent> join(std::vector<Extent> extents, std::uint64_t gap) {
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return a.offset < b.offset; });
  std::vector<Extent> joined;
  for (const Extent& e : extents) {
    if (!joined.empty() && e.offset <= joined.back().end() + gap)
      joined.back().size = std::max(joined.back().end(), e.end()) - joined.back().offset;
    else
      joined.push_back(e);
  }
  return joined;
}

// From the backup of the journal's inode, whose i_block has a tree of extents
// (fs/ext4/ext4_extents.h) of one level.
std::vector<Extent> parse_journal_extents(const std::string& b, const Superblock& s) {
  constexpr std::size_t kTree = 0x10C, kHeaderBytes = 12, kExtentBytes = 12, kMost = 4;
  constexpr std::uint16_t kExtentMagic = 0xF30A;
  constexpr std::uint64_t kMostBlocks = 0x8000;
  std::vector<Extent> extents;
  if (b[0xFD] != 1 || le16(b, kTree) != kExtentMagic || le16(b, kTree + 6) != 0) return extents;
  const std::size_t count = std::min<std::size_t>(le16(b, kTree + 2), kMost);
  for (std::size_t at = kTree + kHeaderBytes; extents.size() < count; at += kExtentBytes) {
    const std::uint64_t first = le32(b, at + 8) | static_cast<std::uint64_t>(le16(b, at + 6)) << 32;
    const std::uint64_t blocks = le16(b, at + 4);
    if (blocks > kMostBlocks || first >= s.blocks || blocks > s.blocks - first) return {};
    extents.push_back({first * s.block_bytes, blocks * s.block_bytes});
  }
  return extents;
}

Result<Superblock> parse_superblock(const std::string& b) {
  if (b.size() < kSuperblockBytes || le16(b, 0x38) != kMagic) return invalid("no superblock");
  const std::uint32_t compat = le32(b, 0x5C), incompat = le32(b, 0x60), log_block = le32(b, 0x18);
  if (log_block > 6) return invalid("its block size is impossible");
  Superblock s;
  s.inodes = le32(b, 0x0);
  s.blocks = le32(b, 0x4);
  s.free_blocks = le32(b, 0xC);
  s.free_inodes = le32(b, 0x10);
  s.first_data_block = le32(b, 0x14);
  s.block_bytes = 1024U << log_block;
  s.blocks_per_group = le32(b, 0x20);
  s.inodes_per_group = le32(b, 0x28);
  s.state = le16(b, 0x3A);
  s.inode_bytes = le16(b, 0x58);
  s.reserved_gdt_blocks = le16(b, 0xCE);
  s.descriptor_bytes = 32;
  if (incompat & kIncompat64Bit) {
    s.blocks |= static_cast<std::uint64_t>(le32(b, 0x150)) << 32;
    s.free_blocks |= static_cast<std::uint64_t>(le32(b, 0x158)) << 32;
    s.descriptor_bytes = le16(b, 0xFE);
  }
  if (compat & kCompatHasJournal)  // the size in the backup of the journal's inode
    s.journal_bytes = le32(b, 0x14C) | static_cast<std::uint64_t>(le32(b, 0x148)) << 32;
  s.first_meta_bg = incompat & kIncompatMetaBg ? le32(b, 0x104) : ~0ULL;
  s.needs_recovery = incompat & kIncompatRecover;
  s.sparse_super = le32(b, 0x64) & kRoCompatSparseSuper;
  if (s.blocks_per_group == 0 || s.blocks_per_group > 8 * s.block_bytes ||
      s.inodes_per_group == 0 || s.inodes_per_group > 8 * s.block_bytes)
    return invalid("its groups are impossible");
  if (s.first_data_block > 1 || s.blocks <= s.first_data_block || s.free_blocks > s.blocks ||
      s.blocks > (1ULL << 62) / s.block_bytes || s.free_inodes > s.inodes)
    return invalid("its counts contradict each other");
  if (s.descriptor_bytes < 32 || s.descriptor_bytes > 1024 || s.inode_bytes < 128 ||
      s.inode_bytes > s.block_bytes)
    return invalid("its group descriptors or inodes are impossible");
  if (s.groups() > kMaxGroups) return invalid("it has too many groups");
  if (s.journal_bytes > 0) s.journal = parse_journal_extents(b, s);
  return s;
}

bool Superblock::has_backup(std::uint64_t group) const {
  if (!sparse_super || group <= 1) return true;
  for (const std::uint64_t base : {3, 5, 7}) {
    std::uint64_t power = base;
    while (power < group) power *= base;
    if (power == group) return true;
  }
  return false;
}

std::uint64_t Superblock::overhead_blocks() const {
  const std::uint64_t descriptors_a_block = block_bytes / descriptor_bytes;
  std::uint64_t descriptor_blocks = (groups() + descriptors_a_block - 1) / descriptors_a_block;
  descriptor_blocks = std::min(descriptor_blocks, first_meta_bg) + reserved_gdt_blocks;
  std::uint64_t overhead = first_data_block + journal_bytes / block_bytes;
  for (std::uint64_t group = 0; group < groups(); ++group) {
    overhead += 2 + inode_table_blocks();
    if (has_backup(group)) overhead += 1 + descriptor_blocks;
  }
  return std::min(overhead, blocks);
}

Result<Superblock> read_superblock(int file) {
  return parse_superblock(UMWELT_TRY(read_exactly(file, kSuperblockOffset, kSuperblockBytes)));
}

Result<std::vector<Extent>> read_used_blocks(int file, const Superblock& s) {
  std::vector<Extent> used;
  std::uint64_t first = s.first_data_block;
  const std::vector<Group> groups = UMWELT_TRY(read_groups(file, s));
  for (const Group& group : groups) {
    const std::uint64_t blocks = std::min<std::uint64_t>(s.blocks_per_group, s.blocks - first);
    if (!group.block_uninit) {
      const std::string bitmap = UMWELT_TRY(read_exactly(file, group.block_bitmap * s.block_bytes,
                                                         static_cast<std::size_t>(blocks + 7) / 8));
      append_used(bitmap, first, blocks, s.block_bytes, used);
    }
    first += blocks;
  }
  return join(std::move(used));
}

Result<std::vector<Extent>> read_metadata_blocks(int file, const Superblock& s) {
  std::vector<Extent> blocks = {{0, (s.first_data_block + 1ULL) * s.block_bytes}};
  blocks.insert(blocks.end(), s.journal.begin(), s.journal.end());
  const std::vector<Group> groups = UMWELT_TRY(read_groups(file, s));
  for (const Group& group : groups) {
    blocks.push_back({group.descriptor_block * s.block_bytes, s.block_bytes});
    blocks.push_back({group.block_bitmap * s.block_bytes, s.block_bytes});
    blocks.push_back({group.inode_bitmap * s.block_bytes, s.block_bytes});
    blocks.push_back({group.inode_table * s.block_bytes, s.inode_table_blocks() * s.block_bytes});
  }
  return join(std::move(blocks));
}

}  // namespace umwelt::vdisk
