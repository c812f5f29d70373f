// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fuse3/fuse_lowlevel.h>

#include "fusefs/filesystem.h"

namespace umwelt::fusefs {

// The userdata of a connection's FUSE sessions.
struct Served {
  Filesystem* filesystem = nullptr;
  Side side = Side::kConfig;  // not kShared
};

// The same for all connections. Every request is answered exactly once, whatever happens: all
// answers are sent by one function, which also turns errors and exceptions into one.
const fuse_lowlevel_ops& operations();

}  // namespace umwelt::fusefs
