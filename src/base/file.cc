// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <dirent.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

namespace umwelt {
namespace {

template <class Call>
auto retry(Call call) {
  decltype(call()) result;
  do {
    result = call();
  } while (result < 0 && errno == EINTR);
  return result;
}

Result<std::string> read_whole(int fd, const std::string& path, std::size_t max_bytes) {
  std::string text(4096, '\0');
  std::size_t used = 0;
  for (;;) {
    if (used == text.size()) text.resize(text.size() * 2);
    const ssize_t n = retry([&] { return ::read(fd, text.data() + used, text.size() - used); });
    if (n < 0) return fail_errno("read " + path);
    if (n == 0) break;
    used += static_cast<std::size_t>(n);
    if (used > max_bytes) return fail(EFBIG, "read " + path);
  }
  text.resize(used);
  return text;
}

// What pread_all() and pread_record() read is the kernel's, and /proc/interrupts has 11 bytes for
// each CPU in each line: 10 MiB with a thousand of both.
constexpr std::size_t kMaxPreadBytes = 128U << 20;

Result<std::string_view> pread_until(int fd, std::string& buffer, bool short_read_ends) {
  if (buffer.size() < 4096) buffer.resize(std::max<std::size_t>(buffer.capacity(), 4096));
  std::size_t used = 0;
  for (;;) {
    const std::size_t room = buffer.size() - used;
    const ssize_t n =
        retry([&] { return ::pread(fd, buffer.data() + used, room, static_cast<off_t>(used)); });
    if (n < 0) return fail_errno("pread");
    used += static_cast<std::size_t>(n);
    if (n == 0 || (short_read_ends && static_cast<std::size_t>(n) < room)) break;
    if (used > kMaxPreadBytes) return fail(EFBIG, "pread");
    if (used == buffer.size()) buffer.resize(buffer.size() * 2);
  }
  return std::string_view(buffer.data(), used);
}

}  // namespace

Result<UniqueFd> open_at(int dir, const std::string& path, int flags, mode_t mode) {
  const int fd = retry([&] { return ::openat(dir, path.c_str(), flags | O_CLOEXEC, mode); });
  if (fd < 0) return fail_errno("open " + path);
  return UniqueFd(fd);
}

Result<UniqueFd> open_in_root(int root, const std::string& path, int flags, mode_t mode) {
  open_how how{};
  how.flags = static_cast<unsigned>(flags) | O_CLOEXEC;
  how.mode = mode;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  // EAGAIN: a rename or mount raced with the resolution of ".." (openat2(2)).
  long fd = -1;
  for (int attempt = 0; attempt < 64; ++attempt) {
    fd = ::syscall(SYS_openat2, root, path.c_str(), &how, sizeof(how));
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) break;
  }
  if (fd < 0) return fail_errno("open " + path + " in the root filesystem");
  return UniqueFd(static_cast<int>(fd));
}

Result<std::string> read_file_at(int dir, const std::string& path, std::size_t max_bytes) {
  UniqueFd fd = UMWELT_TRY(open_at(dir, path, O_RDONLY));
  return read_whole(fd.get(), path, max_bytes);
}

Result<std::string> read_file(const std::string& path, std::size_t max_bytes) {
  return read_file_at(AT_FDCWD, path, max_bytes);
}

Result<std::optional<std::string>> read_optional_at(int dir, const std::string& path,
                                                    std::size_t max_bytes) {
  auto text = read_file_at(dir, path, max_bytes);
  if (text) return std::optional<std::string>(std::move(*text));
  if (text.error().code == ENOENT || text.error().code == ENOTDIR)
    return std::optional<std::string>();
  return fail(text.error());
}

Result<std::string_view> pread_all(int fd, std::string& buffer) {
  return pread_until(fd, buffer, false);
}

Result<std::string_view> pread_record(int fd, std::string& buffer) {
  return pread_until(fd, buffer, true);
}

Result<std::vector<std::string>> read_names(int directory, std::size_t most) {
  alignas(dirent64) char buffer[8192];
  std::vector<std::string> names;
  for (;;) {
    const ssize_t n = ::getdents64(directory, buffer, sizeof buffer);
    if (n < 0) return fail_errno("list a directory");
    if (n == 0) return names;
    for (ssize_t at = 0; at < n;) {
      const auto* entry = reinterpret_cast<const dirent64*>(buffer + at);
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
      if (names.size() == most) return names;
      at += entry->d_reclen;
    }
  }
}

Result<std::vector<std::string>> read_names_at(int dir, const std::string& path, std::size_t most) {
  const UniqueFd directory = UMWELT_TRY(open_at(dir, path, O_RDONLY | O_DIRECTORY));
  return read_names(directory.get(), most);
}

Result<void> write_all(int fd, std::string_view text, const std::string& what) {
  while (!text.empty()) {
    const ssize_t n = retry([&] { return ::write(fd, text.data(), text.size()); });
    if (n < 0) return fail_errno(what);
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

Result<void> write_file_at(int dir, const std::string& path, std::string_view text) {
  UniqueFd fd = UMWELT_TRY(open_at(dir, path, O_WRONLY));
  const ssize_t n = retry([&] { return ::write(fd.get(), text.data(), text.size()); });
  if (n < 0) return fail_errno("write " + path);
  if (static_cast<std::size_t>(n) != text.size()) return fail(EIO, "short write " + path);
  return {};
}

Result<void> replace_file(const std::string& path, std::string_view text, mode_t mode,
                          bool durable) {
  constexpr std::string_view kEnding = ".new";
  std::string temporary = path + ".XXXXXX" + std::string(kEnding);
  UniqueFd fd(::mkostemps(temporary.data(), kEnding.size(), O_CLOEXEC));
  if (!fd) return fail_errno("make " + temporary);
  const auto give_up = [&](const std::string& what) {
    const auto error = fail_errno(what + path);
    ::unlink(temporary.c_str());
    return error;
  };
  if (auto written = write_all(fd.get(), text, "write " + path); !written) {
    ::unlink(temporary.c_str());
    return written;
  }
  if (::fchmod(fd.get(), mode) != 0) return give_up("chmod ");
  if (durable && ::fsync(fd.get()) != 0) return give_up("fsync ");
  if (::rename(temporary.c_str(), path.c_str()) != 0) return give_up("rename ");
  return {};
}

std::string program_path() {
  constexpr std::string_view kReplaced = " (deleted)";  // proc(5)
  char path[PATH_MAX];
  const ssize_t n = ::readlink("/proc/self/exe", path, sizeof path);
  std::string_view program(path, n > 0 ? static_cast<std::size_t>(n) : 0);
  if (program.ends_with(kReplaced)) program.remove_suffix(kReplaced.size());
  return std::string(program);
}

Result<void> make_directories(const std::string& path, mode_t mode) {
  for (std::size_t end = 0; end != std::string::npos;) {
    end = path.find('/', end + 1);
    const std::string part = path.substr(0, end);
    if (::mkdir(part.c_str(), mode) != 0 && errno != EEXIST) return fail_errno("mkdir " + part);
  }
  return {};
}

void open_standard_descriptors() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd)
    if (::fcntl(fd, F_GETFD) < 0) (void)!::open("/dev/null", O_RDWR);  // the lowest that is free
}

}  // namespace umwelt
