// SPDX-License-Identifier: Apache-2.0
// /proc/diskstats and /proc/partitions (block/genhd.c): the devices that the container has of its
// own, else those that the kernel has accounted it any I/O on.
#include "view/disks.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/parse.h"
#include "view/files.h"

namespace umwelt::view {
namespace {

constexpr std::uint64_t kSectorBytes = 512;

// v1 also lists, with zeros, every device that some cgroup was given a limit on.
bool any(const cgroup::DeviceIo& io) {
  return (io.reads | io.writes | io.discards | io.read_bytes | io.written_bytes |
          io.discarded_bytes) != 0;
}

const cgroup::DeviceIo* find_io(const Resources& r, unsigned major, unsigned minor) {
  const auto found = std::find_if(r.io.begin(), r.io.end(), [&](const cgroup::DeviceIo& io) {
    return io.major == major && io.minor == minor && any(io);
  });
  return found == r.io.end() ? nullptr : &*found;
}

bool own(const Resources& r, unsigned major, unsigned minor) {
  return r.identity.disk && r.identity.disk->major == major && r.identity.disk->minor == minor;
}

bool shown(const Resources& r, unsigned major, unsigned minor) {
  if (!r.identity.limited) return true;
  return r.identity.disk ? own(r, major, minor) : find_io(r, major, minor) != nullptr;
}

const std::string& name_of(const Resources& r, unsigned major, unsigned minor,
                           const std::string& name) {
  return own(r, major, minor) && !r.identity.disk->name.empty() ? r.identity.disk->name : name;
}

// What the machine counts of a device that is this container's alone is the container's, from the
// moment on when it got it. How many are in flight is no counter.
DiskCounts since(DiskCounts counts, const DiskCounts& before) {
  constexpr std::size_t kInFlight = 8;
  for (std::size_t i = 0; i < std::min(counts.size(), before.size()); ++i)
    if (i != kInFlight) counts[i] = saturating_sub(counts[i], before[i]);
  return counts;
}

void append_counts(std::string& text, const DiskCounts& counts) {
  for (const std::uint64_t count : counts) fmt::format_to(std::back_inserter(text), " {}", count);
}

// The columns of Documentation/admin-guide/iostats.rst that a cgroup accounts, the others 0.
void append_accounted(std::string& text, const cgroup::DeviceIo& io, std::size_t columns) {
  const std::uint64_t counts[] = {io.reads,
                                  0,
                                  io.read_bytes / kSectorBytes,
                                  0,
                                  io.writes,
                                  0,
                                  io.written_bytes / kSectorBytes,
                                  0,
                                  0,
                                  0,
                                  0,
                                  io.discards,
                                  0,
                                  io.discarded_bytes / kSectorBytes,
                                  0};
  for (std::size_t i = 0; i < columns; ++i)
    fmt::format_to(std::back_inserter(text), " {}", i < std::size(counts) ? counts[i] : 0);
}

}  // namespace

std::optional<DiskCounts> counts_of_own_disk(const Resources& r) {
  if (!r.host.diskstats) return std::nullopt;
  for (const host::Disk& disk : *r.host.diskstats)
    if (own(r, disk.major, disk.minor)) return since(disk.counts, r.identity.disk->counts_before);
  return std::nullopt;
}

std::string render_diskstats(const Resources& r) {
  std::string text;
  if (!r.host.diskstats) return text;
  for (const host::Disk& disk : *r.host.diskstats) {
    if (!shown(r, disk.major, disk.minor)) continue;
    fmt::format_to(std::back_inserter(text), "{:4} {:7} {}", disk.major, disk.minor,
                   name_of(r, disk.major, disk.minor, disk.name));
    if (own(r, disk.major, disk.minor)) {
      append_counts(text, since(disk.counts, r.identity.disk->counts_before));
    } else if (!r.identity.limited) {
      append_counts(text, disk.counts);
    } else {
      append_accounted(text, *find_io(r, disk.major, disk.minor), disk.counts.size());
    }
    text += '\n';
  }
  return text;
}

std::string render_partitions(const Resources& r) {
  std::string text = "major minor  #blocks  name\n\n";
  if (!r.host.partitions) return text;
  for (const host::Partition& partition : *r.host.partitions) {
    if (shown(r, partition.major, partition.minor))
      fmt::format_to(std::back_inserter(text), "{:4}  {:7} {:>10} {}\n", partition.major,
                     partition.minor, partition.blocks_kib,
                     name_of(r, partition.major, partition.minor, partition.name));
  }
  return text;
}

}  // namespace umwelt::view
