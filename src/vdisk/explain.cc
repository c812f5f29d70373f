// SPDX-License-Identifier: Apache-2.0
#include "vdisk/explain.h"

#include <fmt/format.h>

namespace umwelt::vdisk {

Error explain(const Error& error, const std::string& what) {
  const std::string kind = what.substr(0, what.find(' '));
  switch (error.code) {
    case 0:
      return error;
    case ENOENT:
      if (kind != "vdisk" && kind != "volume" && kind != "image")
        return {error.code, fmt::format("{}: {}", what, error.text)};
      return {0, fmt::format("there is no {}; umwelt {} ls lists them", what, kind)};
    case EEXIST:
      return {0, fmt::format("{} exists: remove it, or choose another name", what)};
    case EBUSY:
      return {0, fmt::format("{} is in use by a container, or is being copied, checked or "
                             "resized",
                             what)};
    case EUCLEAN:
      return {0, fmt::format("{} is damaged: umwelt vdisk check says how, umwelt vdisk repair may "
                             "help",
                             what)};
    case EROFS:
      return {0, fmt::format("{}: the host's filesystem is read-only", what)};
    case ENOSPC:
      return {0, fmt::format("{}: no space on the host ({})", what, error.text)};
    case EFBIG:
      return {0, fmt::format("{}: larger than the host's filesystem allows a file", what)};
    case ENODEV:
      return {0, fmt::format("{}: this machine has no loop devices ({})", what, error.text)};
    default:
      return {error.code, fmt::format("{}: {}", what, error.text)};
  }
}

}  // namespace umwelt::vdisk
