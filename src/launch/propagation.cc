// SPDX-License-Identifier: Apache-2.0
#include "launch/propagation.h"

#include <fcntl.h>

#include <algorithm>

#include "base/file.h"
#include "base/parse.h"

namespace umwelt::launch {
namespace {

Result<void> read_groups(int fd, std::optional<PeerGroups>& out) {
  if (out) return {};
  std::string buffer;
  out = parse_peer_groups(UMWELT_TRY(pread_all(fd, buffer)));
  return {};
}

std::optional<std::uint64_t> number_after(std::string_view word, std::string_view prefix) {
  return word.starts_with(prefix) ? parse_u64(word.substr(prefix.size())) : std::nullopt;
}

}  // namespace

PeerGroups parse_peer_groups(std::string_view mountinfo) {
  PeerGroups groups;
  while (auto line = next_line(mountinfo)) {
    const auto id = parse_u64(next_word(*line));
    const auto below = parse_u64(next_word(*line));
    std::string file(next_word(*line));
    if (id) groups.filesystems[*id] = file;
    file.append(" ").append(next_word(*line));
    std::string at(next_word(*line));
    next_word(*line);  // options
    std::string_view word;
    for (word = next_word(*line); !word.empty() && word != "-"; word = next_word(*line)) {
      const auto shared = number_after(word, "shared:");
      if (shared && id) groups.shared[*id] = *shared;
      if (const auto group = shared ? shared : number_after(word, "master:"))
        groups.receives.insert(*group);
    }
    const std::string_view type = next_word(*line);
    if (id && below && (type == "fuse.umwelt" || type == "fuse.lxcfs"))
      groups.views[*id] = {*below, std::move(file), std::move(at)};
  }
  return groups;
}

Result<Propagation> Propagation::open(const std::string& container, const std::string& host) {
  Propagation out;
  out.container_ = UMWELT_TRY(open_at(AT_FDCWD, container, O_RDONLY));
  if (!host.empty()) out.host_ = UMWELT_TRY(open_at(AT_FDCWD, host, O_RDONLY));
  return out;
}

Result<bool> Propagation::reaches_host(std::uint64_t id) const {
  UMWELT_CHECK(read_groups(container_.get(), container_groups_));
  const auto group = container_groups_->shared.find(id);
  if (group == container_groups_->shared.end()) return false;
  if (!host_) return true;
  UMWELT_CHECK(read_groups(host_.get(), host_groups_));
  return host_groups_->receives.contains(group->second);
}

Result<bool> Propagation::is_of_host(std::uint64_t id) const {
  UMWELT_CHECK(read_groups(container_.get(), container_groups_));
  const auto own = container_groups_->filesystems.find(id);
  if (own == container_groups_->filesystems.end() || !host_) return true;
  UMWELT_CHECK(read_groups(host_.get(), host_groups_));
  const auto& hosts = host_groups_->filesystems;
  return std::any_of(hosts.begin(), hosts.end(),
                     [&](const auto& mount) { return mount.second == own->second; });
}

Result<bool> Propagation::is_view(std::uint64_t id) const {
  UMWELT_CHECK(read_groups(container_.get(), container_groups_));
  return container_groups_->views.contains(id);
}

Result<bool> Propagation::lies_on(std::uint64_t id, std::uint64_t below) const {
  UMWELT_CHECK(read_groups(container_.get(), container_groups_));
  const auto view = container_groups_->views.find(id);
  return view != container_groups_->views.end() && view->second.below == below;
}

Result<std::vector<PeerGroups::View>> Propagation::views() const {
  UMWELT_CHECK(read_groups(container_.get(), container_groups_));
  std::vector<PeerGroups::View> all;
  for (const auto& [id, view] : container_groups_->views) all.push_back(view);
  return all;
}

Result<bool> Propagation::covers(std::uint64_t id, const std::string& file) const {
  UMWELT_CHECK(read_groups(container_.get(), container_groups_));
  const auto& views = container_groups_->views;
  for (auto view = views.find(id); view != views.end(); view = views.find(view->second.below))
    if (view->second.file == file) return view->first != id;
  return false;
}

}  // namespace umwelt::launch
