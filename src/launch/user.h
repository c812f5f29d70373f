// SPDX-License-Identifier: Apache-2.0
// --user, resolved with the container's own passwd(5) and group(5).
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace umwelt::launch {

struct User {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary
  std::string home = "/";
};

// `user`: "", "name|uid" or "name|uid:group|gid". `passwd` and `group` are the texts of the files,
// "" where there are none; malformed lines are passed over. An Error with code 0 names what was
// not found. Pure.
Result<User> resolve_user(std::string_view user, std::string_view passwd, std::string_view group);

// The same with the files below `root`, of which nothing is trusted.
Result<User> read_user(int root, std::string_view user);

}  // namespace umwelt::launch
