// SPDX-License-Identifier: Apache-2.0
// Where storage lies in the state directory.
#pragma once

#include <string>

#include "container/record.h"

namespace umwelt::vdisk {

inline std::string images_directory(const container::Directories& d) { return d.state + "/images"; }
inline std::string vdisks_directory(const container::Directories& d) { return d.state + "/vdisks"; }
inline std::string templates_directory(const container::Directories& d) {
  return d.state + "/templates";
}

}  // namespace umwelt::vdisk
