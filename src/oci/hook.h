// SPDX-License-Identifier: Apache-2.0
// The OCI hooks (runtime-spec config.md, "POSIX-platform Hooks"): a container of any runtime
// becomes known to the daemon and gets its files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "container/record.h"
#include "launch/attach.h"
#include "oci/choice.h"

namespace umwelt::oci {

// `umwelt oci-hook [--runtime-dir DIR] STAGE`, the container's state on stdin. Stages:
//
//   createRuntime    in the host's namespaces: registers the container by its init process and
//                    mounts the files in its mount namespace
//   createContainer  in the container's: mounts what is not there yet
//   poststop         takes the registration back
//
// Returns the exit code. What goes wrong is said on stderr and in <runtime>/oci.log, and the
// container starts with the host's files: exit code 0, unless it asks for umwelt=required.
int run_hook(const std::vector<std::string>& arguments);

// Removes the empty files that were made to mount on in a root filesystem that stays.
void remove_mount_points(const std::string& root);

// `umwelt-runtime lxc-hook [--runtime-dir DIR]`, LXC's lxc.hook.start-host, with what LXC says in
// the environment (lxc.container.conf(5)) and words of its own at the end: the container waits, set
// up, for its init to be executed. Fails as run_hook() does. As lxc.hook.post-stop it does what
// poststop does.
int run_lxc_hook(const std::vector<std::string>& arguments);

// The id under which a container of a runtime is registered: its own where that may be one
// (container::valid_id), else made of it.
std::string record_id(std::string_view runtime_id);

// Whether a container of that record_id() is registered with this record: by admit(), which adds
// the init's pid where the id is taken.
bool is_record_of(const container::Record& record, const std::string& id);

struct Admitted {
  container::Record record;  // as the daemon has it
  launch::Attached attached;
};
// Registers and attaches; `views` are groups, none of them: all; `root` and `patience` as
// attach_views() has them. Takes the registration back on failure, but for ETIMEDOUT, when some of
// the files may be there. A record that has a number is the daemon's own: it stays, and keeps the
// views that were chosen when `views` are none. Starts no daemon.
Result<Admitted> admit(container::Record record, const container::Directories& directories,
                       const std::vector<std::string>& views, const std::string& root = {},
                       std::chrono::milliseconds patience = launch::kWithoutEnd);

// What went wrong, what to do about it, and what becomes of the container.
std::string consequence(const container::Directories& directories, const Error& error,
                        bool required);

// One line on stderr and in <runtime>/oci.log.
void report(const container::Directories& directories, std::string_view container,
            std::string_view text);

}  // namespace umwelt::oci
