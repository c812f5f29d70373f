// SPDX-License-Identifier: Apache-2.0
// Reading and writing small files relative to a held directory descriptor. Everything that is
// opened here is CLOEXEC. Pass AT_FDCWD as `dir` for a path of the calling process.
#pragma once

#include <fcntl.h>
#include <sys/types.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt {

inline constexpr std::size_t kMaxFileBytes = 16U << 20;

// openat(2) with O_CLOEXEC added.
Result<UniqueFd> open_at(int dir, const std::string& path, int flags, mode_t mode = 0);

// openat2(2) with RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS: `path` and every symlink in it are
// resolved as if `root` were "/". For paths in trees that somebody else controls.
Result<UniqueFd> open_in_root(int root, const std::string& path, int flags, mode_t mode = 0);

// The whole content. EFBIG when it is larger than `max_bytes`.
Result<std::string> read_file_at(int dir, const std::string& path,
                                 std::size_t max_bytes = kMaxFileBytes);
Result<std::string> read_file(const std::string& path, std::size_t max_bytes = kMaxFileBytes);

// nullopt when the file does not exist (ENOENT, ENOTDIR), which for an optional kernel file is no
// error.
Result<std::optional<std::string>> read_optional_at(int dir, const std::string& path,
                                                    std::size_t max_bytes = kMaxFileBytes);

// The names in a directory, without "." and "..", in no order, at most `most`. read_names(): of a
// descriptor that nobody has read from; btrfs lists what was there when it was opened.
Result<std::vector<std::string>> read_names(int directory, std::size_t most = ~std::size_t{0});
Result<std::vector<std::string>> read_names_at(int dir, const std::string& path,
                                               std::size_t most = ~std::size_t{0});

// The whole content of a held descriptor from offset 0, by pread(2), into `buffer`, which keeps
// its capacity from call to call; the view points into it. A cgroup file whose cgroup is gone
// gives ENODEV.
Result<std::string_view> pread_all(int fd, std::string& buffer);
// The same in one syscall, for files that the kernel makes as one record (every cgroup file, and
// /proc files made by single_open(): meminfo, stat, uptime, loadavg): there a short read is the
// end.
Result<std::string_view> pread_record(int fd, std::string& buffer);

// All of it, in as many write(2) as that takes. `what` is the text of the error: "write PATH".
Result<void> write_all(int fd, std::string_view text, const std::string& what);

// One write(2) of the whole text, as control files need it; an existing file is not truncated.
Result<void> write_file_at(int dir, const std::string& path, std::string_view text);

// Replaces `path` as a whole (a file PATH.*.new of its own, fsync, rename), so that a reader or a
// crash sees the old or the new content, also beside others who replace it. `durable` false:
// without the fsync, for files that are worth nothing after the next boot.
Result<void> replace_file(const std::string& path, std::string_view text, mode_t mode = 0644,
                          bool durable = true);

// /dev/null for each of 0, 1 and 2 that is closed: else a file that is opened later would have that
// number, and get what is said to people. For the beginning of main().
void open_standard_descriptors();

// The path of this program; also when another file has that name by now, which a package that is
// upgraded brings. Empty where there is no /proc.
std::string program_path();

// mkdir -p; an existing directory is no error.
Result<void> make_directories(const std::string& path, mode_t mode = 0755);

}  // namespace umwelt
