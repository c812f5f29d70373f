// SPDX-License-Identifier: Apache-2.0
// The launcher's containers on disk, and the clean-up of those whose launcher died.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "container/record.h"
#include "launch/spec.h"

namespace umwelt::launch {

// <runtime>/launched/ID/state.json, replaced as a whole, or written over where the filesystem is
// full; changed under one lock between processes (<runtime>/launched/.lock). Every reader sees a
// complete state.
class Store {
 public:
  explicit Store(container::Directories directories);

  // Claims id and name for a new container: EEXIST when either is taken by a container that still
  // exists. Atomic between processes.
  Result<void> create(const Launched& launched);
  // Reads, changes and writes the state of a container as one step. ENOENT when it is not there.
  Result<Launched> update(const std::string& id, const std::function<void(Launched&)>& change);
  // `name_or_id`: a name, an id, or a prefix of an id that fits only one. ENOENT otherwise.
  Result<Launched> find(const std::string& name_or_id) const;
  Result<std::vector<Launched>> all() const;  // by the time they were created
  // Removes what is left of a container that does not run: EBUSY when it does.
  Result<void> remove(const std::string& id);
  // For who waits for the end of a container, which may be removed at once: a file that gets its
  // last state then, for last_state().
  Result<UniqueFd> await(const std::string& id) const;
  bool awaited(const std::string& id) const;
  static std::optional<Launched> last_state(int file);
  // Held while the limits of a container change. ENOENT when it is gone.
  Result<UniqueFd> take_turn(const std::string& id) const;
  // Removes a container's directory, whatever its state: for the process that has tidied it up.
  Result<void> forget(const std::string& id);

  const container::Directories& directories() const { return directories_; }
  std::string directory(const std::string& id) const;  // <runtime>/launched/ID
  std::string log_path(const std::string& id) const;   // of a detached container, see log_file.h

  // For every container whose processes are gone without having been tidied (kill -9 of the
  // launcher at any moment): kills what is left in its cgroup, removes cgroup, mounts,
  // registration; marks it stopped, or removes it if it was --rm or had not started. Cheap when
  // nothing is to do. The first failure is reported when all have been tried.
  Result<void> reap();

 private:
  Result<UniqueFd> lock() const;
  Result<Launched> read(const std::string& id) const;
  Result<void> write(const Launched& launched) const;
  Result<void> erase(const std::string& id);
  Result<void> tidy(Launched launched);
  container::Directories directories_;
};

// Whether the process that waits for it, and would tidy up, is there.
bool monitored(const Launched& launched);

}  // namespace umwelt::launch
