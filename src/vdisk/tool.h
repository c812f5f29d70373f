// SPDX-License-Identifier: Apache-2.0
// Running the filesystem makers and checkers (e2fsprogs, erofs-utils). Never at the creation of a
// vdisk, only where a template or an image is made and where one is checked or resized.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"

namespace umwelt::vdisk {

struct ToolResult {
  int exit_code = 0;   // 128 + signal when it was killed
  std::string output;  // stdout and stderr, the first 64 KiB
};

// The path of program `name` in the system's directories; an Error (code 0) names the Debian
// package that has it.
Result<std::string> find_tool(const std::string& name);

// Runs arguments[0] (found by find_tool) and waits. `environment` is added to LC_ALL=C and PATH;
// nothing else of ours is passed on. `tick` is called about five times a second.
// `changes` is a locked file that the program changes: it inherits the descriptor and with it the
// lock, and goes on to its end when we are killed or interrupted, for half a resize2fs is worse.
Result<ToolResult> run_tool(std::vector<std::string> arguments,
                            const std::vector<std::string>& environment = {},
                            const std::function<void()>& tick = {}, int changes = -1);

// The same where only exit code 0 is good: EIO with the program's last line otherwise.
Result<std::string> check_tool(std::vector<std::string> arguments,
                               const std::vector<std::string>& environment = {},
                               const std::function<void()>& tick = {}, int changes = -1);

// A path by which a child process can open our descriptor.
std::string path_of(int fd);

}  // namespace umwelt::vdisk
