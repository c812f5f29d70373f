// SPDX-License-Identifier: Apache-2.0
// Where storage lies in the state directory.
#pragma once

#include <string>

#include "container/record.h"

namespace umwelt::vdisk {

inline std::string images_directory(const container::Directories& d) { return d.state + "/images"; }
inline std::string vdisks_directory(const container::Directories& d) { return d.state + "/vdisks"; }
// Below the vdisks: those that were prepared and that nobody has taken.
inline constexpr char kReadyFolder[] = ".ready";
inline std::string templates_directory(const container::Directories& d) {
  return d.state + "/templates";
}

}  // namespace umwelt::vdisk
