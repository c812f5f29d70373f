// SPDX-License-Identifier: Apache-2.0
// What an ext4 filesystem says of itself on disk. Source: Documentation/filesystems/ext4, "Layout"
// (linux), ext2_fs.h (e2fsprogs). The file may be anybody's: every number is checked before use.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace umwelt::vdisk {

struct Extent {  // bytes
  std::uint64_t offset = 0, size = 0;
  std::uint64_t end() const { return offset + size; }
  friend bool operator==(const Extent&, const Extent&) = default;
};

// Two ranges that less than this lies between are allocated in one call.
inline constexpr std::uint64_t kReserveGap = 64ULL << 10;

// Joins extents that touch or overlap, or that less than `gap` lies between; sorts them.
std::vector<Extent> join(std::vector<Extent> extents, std::uint64_t gap = 0);

struct Superblock {
  std::uint64_t blocks = 0, free_blocks = 0;
  std::uint32_t inodes = 0, free_inodes = 0;
  std::uint32_t block_bytes = 0, blocks_per_group = 0, inodes_per_group = 0, first_data_block = 0;
  std::uint32_t inode_bytes = 0;
  std::uint32_t descriptor_bytes = 0;  // of a group
  std::uint32_t reserved_gdt_blocks = 0;
  std::uint64_t first_meta_bg = 0;  // from this block of descriptors on they are scattered
  std::uint64_t journal_bytes = 0;
  std::vector<Extent> journal;  // where it is; what mkfs makes has no more extents than are told
  std::uint16_t state = 0;      // kStateClean, kStateErrors
  bool sparse_super = false;    // backups only in groups 0, 1 and powers of 3, 5 and 7
  bool needs_recovery = false;  // the journal is to be replayed

  static constexpr std::uint16_t kStateClean = 1, kStateErrors = 2;

  std::uint64_t groups() const {
    return (blocks - first_data_block + blocks_per_group - 1) / blocks_per_group;
  }
  std::uint64_t inode_table_blocks() const {
    return (std::uint64_t{inodes_per_group} * inode_bytes + block_bytes - 1) / block_bytes;
  }
  bool has_backup(std::uint64_t group) const;
  // What no file can use, as the kernel counts it for statfs(2).
  std::uint64_t overhead_blocks() const;
};

// EUCLEAN: this is no ext4, or one that contradicts itself.
Result<Superblock> parse_superblock(const std::string& bytes);  // 1,024 bytes
Result<Superblock> read_superblock(int file);

// Every block that the bitmaps have as used: right after mkfs that is the metadata and the
// journal. EUCLEAN as above.
Result<std::vector<Extent>> read_used_blocks(int file, const Superblock& superblock);

// Bitmaps, inode tables, group descriptors and backups, and the journal.
Result<std::vector<Extent>> read_metadata_blocks(int file, const Superblock& superblock);

}  // namespace umwelt::vdisk
