// SPDX-License-Identifier: Apache-2.0
// tar archives (ustar, pax, GNU; plain or compressed with gzip, bzip2, xz, zstd or lz4) by
// libarchive.
#pragma once

#include <cstdint>
#include <functional>

#include "base/result.h"
#include "vdisk/tree_writer.h"

namespace umwelt::vdisk {

// `total_bytes` is 0 where it can't be told.
using ArchiveProgress = std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)>;

// All entries of the archive that `file` is open on, from where it stands. An Error (code 0) is a
// sentence: no tar archive, cut off, an entry that is refused; another is the target's.
Result<void> unpack(int file, TreeWriter& writer, const ArchiveProgress& progress = {});

// A pax archive of everything below `directory` to `file`, hard links and extended attributes with
// it.
Result<void> pack(int directory, int file, const ArchiveProgress& progress = {});

}  // namespace umwelt::vdisk
