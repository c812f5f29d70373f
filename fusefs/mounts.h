// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/result.h"

namespace umwelt::fusefs {

// Makes the directory where it is missing. Its path without symbolic links, as the kernel's table
// of mounts has it.
Result<std::string> real_directory(const std::string& path);

// Whether this program's mount is what one sees at `path`, dead or alive.
Result<bool> is_own(const std::string& path);

// Unmounts what this program has mounted at `path`, however often, dead or alive; mounts of others
// are left. Lazily, so that whoever still uses it does not hinder it.
Result<void> unmount_own(const std::string& path);

// Takes away what an lxcfs, or a daemon, that died left at `path`. An Error when an lxcfs lives
// there.
Result<void> take_lxcfs_place(const std::string& path);

// Mounts the directory `source` on the directory `target`.
Result<void> bind_mount(const std::string& source, const std::string& target);

}  // namespace umwelt::fusefs
