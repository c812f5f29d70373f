// SPDX-License-Identifier: Apache-2.0
// The sparse file of a vdisk. It has no name until everything else is done, so that a crash before
// leaves nothing.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "vdisk/template.h"

namespace umwelt::vdisk {

// The lock that says "in use". It belongs to the open file description (fcntl(2), F_OFD_SETLK), so
// it is kept by a loop device that the description was given to, and asking for it disturbs nobody.
// kShared: one more of several who keep others from having it alone. EBUSY.
enum class Lock { kAlone, kShared };
Result<void> lock_file(int file, Lock kind = Lock::kAlone);
bool is_locked_by_others(int file);

// An unnamed, locked file in the directory open as `directory`, as long as `capacity_bytes`. EFBIG:
// larger than that filesystem allows a file.
Result<UniqueFd> create_unnamed(int directory, std::uint64_t capacity_bytes);

// What a vdisk's file has of its filesystem.
Result<std::uint64_t> allocated_bytes(int file);

// Writes the template and allocates what its class wants allocated: metadata and journal, or (for
// guaranteed) everything. ENOSPC: the host filesystem can't hold that.
Result<void> write_template(int file, const Template& t, Class c);
// The same over whatever is there. Cut off at any point it leaves what is no filesystem.
Result<void> rewrite_template(int file, const Template& t, Class c);

// Of a file that can be made again: nobody has read it for a month.
bool unused_for_long(int directory, const std::string& name);

bool has_name(int file);  // it was not removed

// Gives the file its name. EEXIST.
Result<void> link_file(int file, int directory, const std::string& name);

using CopyProgress = std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)>;
// `to` (of length 0, in the same directory) becomes a copy of `from`: by reflink where the
// filesystem can (and `may_share`), else by copying what is allocated, when `before` has said that
// it may.
using BeforeCopy = std::function<Result<void>()>;
Result<void> copy_file(int from, int to, bool may_share, const CopyProgress& progress = {},
                       const BeforeCopy& before = {});
// Allocates in `to` what `from` has at the same places, and leaves its length.
Result<void> reserve_copy(int from, int to);

}  // namespace umwelt::vdisk
