// SPDX-License-Identifier: Apache-2.0
// Whether everything that umwelt needs and made is there, alive and right; and what mends what is
// not. Nothing here changes the machine.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "container/record.h"

namespace umwelt::oci {

enum class Level { kGood, kNote, kWarning, kFailure };

struct Finding {
  std::string check;  // "daemon", "mounts", "container web" ...
  Level level = Level::kGood;
  std::string text;  // what is there, or what is wrong
  std::string mend;  // the command that mends it; "" when nothing is wrong
  friend bool operator==(const Finding&, const Finding&) = default;
};

// Whether a filesystem is mounted there. ENOTCONN: nobody serves it any more; ETIMEDOUT: who does
// so does not answer.
Result<bool> is_mounted(const std::string& path);

// Every check, each with at least one finding.
std::vector<Finding> examine(const container::Directories& directories);

// The parts, for examine().
void examine_kernel(std::vector<Finding>& out);
void examine_disk(const container::Directories& directories, std::vector<Finding>& out);
void examine_runtimes(const container::Directories& directories, std::vector<Finding>& out);
// False when no daemon answers.
bool examine_daemon(const container::Directories& directories, std::vector<Finding>& out);
void examine_mounts(const container::Directories& directories, bool daemon,
                    std::vector<Finding>& out);
// Each registered container: what a process in it would read, against its cgroup as the kernel has
// it now.
void examine_containers(const container::Directories& directories, std::vector<Finding>& out);
void examine_leaks(const container::Directories& directories, std::vector<Finding>& out);

}  // namespace umwelt::oci
