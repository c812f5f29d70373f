// SPDX-License-Identifier: Apache-2.0
// The storage of one container: its image, its vdisk, its volumes. Everything is a descriptor, so
// that a process that is killed leaves no mount and no loop device; mounts are attached in the
// container's own mount namespace alone.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "cgroup/hierarchies.h"
#include "container/record.h"
#include "launch/spec.h"
#include "vdisk/image.h"
#include "vdisk/store.h"

namespace umwelt::launch {

// Not thread-safe. Held by the process that waits for the container; its child has a copy until it
// has attached the mounts.
class Storage {
 public:
  // Opens or makes what `spec` asks for; a new vdisk has its name in the store when this returns.
  // An Error (code 0) is a whole sentence. Nothing is left of a failure.
  static Result<Storage> open(const Spec& spec, const container::Directories& directories);

  // The detached mount of the root filesystem; -1: the spec's rootfs as it is, or the host's root
  // below a layer in memory.
  int root() const { return root_.get(); }
  // The detached mount for spec.mounts[i], a volume.
  int volume(std::size_t i) const { return volumes_.at(i).root.get(); }

  const vdisk::Disk* disk() const { return disk_ ? &*disk_ : nullptr; }
  void describe(container::Record& record) const;
  // Speed limits of the volumes, for the container's cgroup.
  Result<void> apply_limits(const cgroup::Paths& paths);

  // In the child, when the mounts are attached: the command must not have the descriptors.
  void close();
  // The container has ended, or never started: what is not kept (or was made for one that did not
  // start) is removed, without writing what is dirty in it.
  void finish(bool started);

 private:
  struct Volume {
    std::optional<vdisk::Disk> disk;
    UniqueFd root;
  };
  Storage() = default;
  Result<void> open_disk(const Spec& spec, const vdisk::ImageStore& images);
  Result<vdisk::Disk> existing_disk(const Spec& spec) const;
  Result<void> bind(const Spec& spec);
  void unbind();
  Result<vdisk::Disk> new_disk(const Spec& spec, const vdisk::ImageStore& images) const;
  Result<void> make_root(const Spec& spec);
  Result<void> open_volumes(const Spec& spec);

  std::optional<vdisk::Store> store_;
  std::optional<vdisk::Image> image_;
  std::optional<vdisk::MountedImage> mounted_image_;
  std::optional<vdisk::Disk> disk_;
  std::string disk_name_;                 // in the store, "" before it has one
  bool made_ = false;                     // for this container
  std::optional<vdisk::Record> unbound_;  // of one that was not, as it was before
  UniqueFd root_;
  std::vector<Volume> volumes_;  // as long as spec.mounts
};

// Removes the vdisk that was made for a container whose launcher was killed, unless it is kept.
void remove_left_disk(const Launched& launched, const container::Directories& directories);

}  // namespace umwelt::launch
