// SPDX-License-Identifier: Apache-2.0
// What the mounts of a container are, and where one that is made there also appears
// (mount_namespaces(7)).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::launch {

struct PeerGroups {
  std::map<std::uint64_t, std::uint64_t> shared;  // mount id -> peer group
  std::set<std::uint64_t> receives;               // groups that a mount is in or a slave of
  struct View {
    std::uint64_t below;  // the mount that it lies on
    std::string file;     // "MAJOR:MINOR /path": of which filesystem, and what of it
    std::string at;       // where, below the root directory of that process
  };
  std::map<std::uint64_t, View> views;               // mount id -> umweltd's and lxcfs's files
  std::map<std::uint64_t, std::string> filesystems;  // mount id -> "MAJOR:MINOR"
};
// The text of /proc/PID/mountinfo (proc(5)).
PeerGroups parse_peer_groups(std::string_view mountinfo);

// Not thread-safe.
class Propagation {
 public:
  // The files are opened now and read when somebody asks, also from another mount namespace. An
  // empty `host` (it is not in sight): every shared mount counts as one that reaches it.
  static Result<Propagation> open(const std::string& container, const std::string& host);

  // Whether what is mounted on the container's mount `id` would also be mounted for the host.
  Result<bool> reaches_host(std::uint64_t id) const;
  // Whether the filesystem of the container's mount `id` is mounted for the host, too; also where
  // nothing is known of one of them.
  Result<bool> is_of_host(std::uint64_t id) const;
  // Whether the container's mount `id` is of umweltd or lxcfs, by what it says it is.
  Result<bool> is_view(std::uint64_t id) const;
  // Whether it lies on the container's mount `below`, with nothing between them.
  Result<bool> lies_on(std::uint64_t id, std::uint64_t below) const;
  // All of them.
  Result<std::vector<PeerGroups::View>> views() const;
  // Whether the container's mount `id` is another view, and `file` (PeerGroups::View) lies below it
  // with nothing but views between them.
  Result<bool> covers(std::uint64_t id, const std::string& file) const;

 private:
  UniqueFd container_, host_;
  mutable std::optional<PeerGroups> container_groups_, host_groups_;
};

}  // namespace umwelt::launch
