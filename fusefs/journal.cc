// SPDX-License-Identifier: Apache-2.0
#include "fusefs/journal.h"

#include <linux/fuse.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "fusefs/snapshots.h"

namespace umwelt::fusefs {
namespace {

constexpr std::uint64_t kMagic = 0x756d77656c740004;  // "umwelt", version of the layout
constexpr std::size_t kInitBytes = 512;
constexpr std::size_t kPage = 4096;

}  // namespace

// Only what is touched takes memory. Everything is 0 at first.
struct Journal::Layout {
  std::uint64_t magic;
  std::uint64_t bytes;
  std::atomic<std::uint32_t> replays;
  std::atomic<std::uint32_t> shared_tree_mounted;
  std::atomic<std::uint32_t> containers_attached;
  struct {
    std::uint32_t size;
    char bytes[kInitBytes];
  } init[kConnections];
  std::uint32_t slots_used;  // none behind it ever was
  Owner owners[kSlots];
  alignas(kPage) Snapshots::Memory snapshots;
  alignas(kPage) Snapshots::Memory descriptions;
  alignas(kPage) char slots[kSlots][kSlotBytes];
};

Journal::Slot::Slot(Slot&& other) noexcept
    : journal_(std::exchange(other.journal_, nullptr)), index_(other.index_) {}

Journal::Slot& Journal::Slot::operator=(Slot&& other) noexcept {
  std::swap(journal_, other.journal_);
  std::swap(index_, other.index_);
  return *this;
}

Journal::Slot::~Slot() {
  if (journal_ == nullptr) return;
  clear();
  const std::lock_guard lock(journal_->mutex_);
  journal_->free_.push_back(index_);
}

char* Journal::Slot::memory() const { return journal_->layout_->slots[index_]; }

void Journal::Slot::clear() const {
  // Also for the eyes of another process: after the answer, before the next request.
  std::atomic_ref(reinterpret_cast<fuse_in_header*>(memory())->len)
      .store(0, std::memory_order_seq_cst);
}

Result<UniqueFd> Journal::create() {
  UniqueFd fd(::memfd_create("umwelt-journal", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return fail_errno("make the journal");
  if (::ftruncate(fd.get(), sizeof(Layout)) != 0) return fail_errno("size the journal");
  const std::uint64_t head[2] = {kMagic, sizeof(Layout)};
  if (::pwrite(fd.get(), head, sizeof(head), 0) != sizeof(head))
    return fail_errno("write the journal");
  return fd;
}

Result<std::unique_ptr<Journal>> Journal::map(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return fail_errno("stat the journal");
  if (static_cast<std::size_t>(status.st_size) != sizeof(Layout))
    return fail(EPROTO, "the journal is of another version of umweltd");
  void* memory = ::mmap(nullptr, sizeof(Layout), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return fail_errno("map the journal");
  std::unique_ptr<Journal> journal(new Journal(static_cast<Layout*>(memory)));
  if (journal->layout_->magic != kMagic || journal->layout_->bytes != sizeof(Layout))
    return fail(EPROTO, "the journal is of another version of umweltd");
  return journal;
}

Journal::~Journal() { ::munmap(layout_, sizeof(Layout)); }

Result<void> Journal::set_init_request(unsigned connection, const std::string& bytes) {
  if (bytes.size() > kInitBytes) return fail(EPROTO, "the kernel's FUSE_INIT request is too long");
  std::memcpy(layout_->init[connection].bytes, bytes.data(), bytes.size());
  layout_->init[connection].size = static_cast<std::uint32_t>(bytes.size());
  return {};
}

std::string Journal::init_request(unsigned connection) const {
  return {layout_->init[connection].bytes, layout_->init[connection].size};
}

std::optional<Journal::Slot> Journal::take(Owner owner) {
  const std::lock_guard lock(mutex_);
  if (!std::exchange(free_known_, true)) {
    for (unsigned i = kSlots; i-- > 0;) free_.push_back(i);
  }
  if (free_.empty()) return std::nullopt;
  Slot slot(*this, free_.back());
  free_.pop_back();
  layout_->slots_used = std::max(layout_->slots_used, slot.index_ + 1);
  layout_->owners[slot.index_] = owner;
  slot.clear();                   // also faults the page in, which a receive must find there
  ::mlock(slot.memory(), kPage);  // at best
  return slot;
}

std::vector<Journal::Left> Journal::left() {
  const std::lock_guard lock(mutex_);
  free_known_ = true;
  std::vector<Left> found;
  for (unsigned i = kSlots; i-- > 0;) {
    // Pages that nobody has touched stay so.
    const std::size_t size =
        i < layout_->slots_used ? reinterpret_cast<fuse_in_header*>(layout_->slots[i])->len : 0;
    if (size >= sizeof(fuse_in_header) && size <= kSlotBytes)
      found.push_back({layout_->owners[i], size, Slot(*this, i)});
    else
      free_.push_back(i);
  }
  return found;
}

unsigned Journal::begin_replay() { return layout_->replays.fetch_add(1); }
void Journal::end_replay() { layout_->replays.store(0); }

std::atomic<std::uint32_t>& Journal::shared_tree_mounted() { return layout_->shared_tree_mounted; }

std::atomic<std::uint32_t>& Journal::containers_attached() { return layout_->containers_attached; }

void* Journal::snapshot_memory() const { return &layout_->snapshots; }
void* Journal::description_memory() const { return &layout_->descriptions; }

}  // namespace umwelt::fusefs
