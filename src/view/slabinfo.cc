// SPDX-License-Identifier: Apache-2.0
#include "view/files.h"

namespace umwelt::view {

// No kernel accounts its caches to a cgroup one by one; the sums are in meminfo.
std::string render_slabinfo(const Resources& r) {
  if (!r.host.slabinfo) return {};
  return r.identity.limited ? r.host.slabinfo->heading : r.host.slabinfo->text;
}

}  // namespace umwelt::view
