// SPDX-License-Identifier: Apache-2.0
// Changing files that are somebody else's.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace umwelt::oci {

// Replaces `path` as replace_file() does. Owner and mode stay, a symbolic link stays one, and no
// file beside it is touched, whatever its name. A file that was not there gets mode 0644.
Result<void> rewrite_file(const std::string& path, std::string_view text, bool durable = true);

}  // namespace umwelt::oci
