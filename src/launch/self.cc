// SPDX-License-Identifier: Apache-2.0
#include "launch/self.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "base/file.h"
#include "launch/mounts.h"

namespace umwelt::launch {
namespace {

constexpr const char* kSelf = "/proc/self/exe";

bool is_protected() {
  struct statvfs status {};
  return ::statvfs(kSelf, &status) == 0 && (status.f_flag & ST_RDONLY) != 0;
}

}  // namespace

Result<void> protect() {
  if (is_protected()) {
    // Before Linux 6.14 a process that was executed by descriptor has its number for a name.
    ::prctl(PR_SET_NAME, program_invocation_short_name);
    return {};
  }
  std::string arguments = UMWELT_TRY(read_file("/proc/self/cmdline"));
  std::vector<char*> argv;
  for (std::size_t begin = 0; begin < arguments.size(); begin = arguments.find('\0', begin) + 1)
    argv.push_back(arguments.data() + begin);
  argv.push_back(nullptr);
  char name[PATH_MAX] = "";
  if (::readlink(kSelf, name, sizeof name - 1) > 0) argv[0] = name;
  const UniqueFd program = UMWELT_TRY(clone_mount(AT_FDCWD, kSelf, false));
  UMWELT_CHECK(restrict_mount(program.get(), MOUNT_ATTR_RDONLY, false));
  ::execveat(program.get(), "", argv.data(), environ, AT_EMPTY_PATH);
  return fail_errno("execute the launcher from a read-only mount");
}

}  // namespace umwelt::launch
