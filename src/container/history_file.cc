// SPDX-License-Identifier: Apache-2.0
#include "container/history_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <vector>

#include "base/file.h"

namespace umwelt::container {
namespace {

// The file: a header, and two areas of a length and as many words at most as `capacity`. The one
// that is not current is written and then made the current one.
constexpr std::uint64_t kMagic = 0x756d'776c'7468'0001;  // with the version of History
enum Header : std::size_t { kMagicWord, kCapacityWord, kCurrentWord, kHeaderWords };

constexpr std::size_t kWord = sizeof(std::uint64_t);
constexpr std::size_t kPage = 4096;
constexpr std::size_t kMaxBytes = 16U << 20;
constexpr const char* kNewSuffix = ".new";

std::size_t bytes_for(std::size_t capacity) { return (kHeaderWords + 2 * (1 + capacity)) * kWord; }

void put(const History& history, std::size_t size, std::uint64_t* area) {
  *area = size;
  put_history(history, {area + 1, size});
}

}  // namespace

HistoryFile::~HistoryFile() { unmap(); }

void HistoryFile::unmap() {
  if (memory_ != nullptr) ::munmap(memory_, bytes_);
  memory_ = nullptr;
  capacity_ = 0;
}

std::uint64_t* HistoryFile::area(unsigned index) const {
  return memory_ + kHeaderWords + index * (1 + capacity_);
}

Result<std::optional<History>> HistoryFile::load() const {
  const auto text = UMWELT_TRY(read_optional_at(AT_FDCWD, path_, kMaxBytes));
  if (!text) return std::nullopt;
  std::vector<std::uint64_t> words(text->size() / kWord);
  if (words.size() < kHeaderWords || words.size() * kWord != text->size())
    return fail(EINVAL, path_ + " is no history");
  std::memcpy(words.data(), text->data(), text->size());
  const std::uint64_t capacity = words[kCapacityWord], current = words[kCurrentWord];
  if (words[kMagicWord] != kMagic || capacity > words.size() || current > 1 ||
      bytes_for(capacity) > text->size())
    return fail(EINVAL, path_ + " is no history of this version");
  const std::uint64_t* area = &words[kHeaderWords + current * (1 + capacity)];
  if (*area > capacity) return fail(EINVAL, path_ + " is no history");
  return UMWELT_TRY(take_history({area + 1, static_cast<std::size_t>(*area)}));
}

Result<void> HistoryFile::store(const History& history) {
  const std::size_t size = history_size(history);
  if (size > capacity_) return make(history, size);
  std::atomic_ref current(memory_[kCurrentWord]);
  const unsigned other = current.load(std::memory_order_relaxed) == 0 ? 1 : 0;
  put(history, size, area(other));
  current.store(other, std::memory_order_release);
  return {};
}

Result<void> HistoryFile::make(const History& history, std::size_t size) {
  const std::size_t bytes = (bytes_for(size) + kPage - 1) / kPage * kPage;
  if (bytes > kMaxBytes) return fail(EFBIG, path_);
  const std::string temporary = path_ + kNewSuffix;
  const UniqueFd fd = UMWELT_TRY(open_at(AT_FDCWD, temporary, O_RDWR | O_CREAT | O_TRUNC, 0600));
  // Without room for it a write to the mapping would be a SIGBUS.
  if (const int code = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes)); code != 0)
    return fail(code, temporary);
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED) return fail_errno("map " + temporary);
  unmap();
  memory_ = static_cast<std::uint64_t*>(memory);
  bytes_ = bytes;
  capacity_ = (bytes - bytes_for(0)) / kWord / 2;
  memory_[kMagicWord] = kMagic;
  memory_[kCapacityWord] = capacity_;
  put(history, size, area(0));
  if (::rename(temporary.c_str(), path_.c_str()) == 0) return {};
  const Error error = fail_errno("rename to " + path_).value();
  unmap();
  return fail(error);
}

void HistoryFile::remove(const std::string& path) {
  ::unlink(path.c_str());
  ::unlink((path + kNewSuffix).c_str());
}

}  // namespace umwelt::container
