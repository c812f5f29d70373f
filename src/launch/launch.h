// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "container/record.h"
#include "launch/spec.h"

namespace umwelt::launch {

// Exit codes of `umwelt run` and `exec`, as docker has them.
inline constexpr int kExitLauncher = 125;  // the launcher's own failure
inline constexpr int kExitNotExecutable = 126;
inline constexpr int kExitNotFound = 127;

struct Outcome {
  int exit_code = 0;  // the command's, 128 + signal, or kExitNotExecutable and kExitNotFound
  bool oom_killed = false;
  std::string note;  // one line for the user, "" when there is nothing to say
};

// Runs the container and waits for it; forwards signals and, with a tty, the terminal. Detached: it
// returns when the command was exec'ed, and a monitor process goes on. An Error is a failure of the
// launcher itself; a command that can't be executed is an Outcome. Either way nothing is left of a
// container that did not start. The caller is single-threaded and leaves the process right after,
// since its children are born in the container's time namespace from then on. Nothing may have
// been printed or changed before: the program is executed once more, see self.h. `warn` is given a
// sentence when the container starts all the same, before it does.
Result<Outcome> run(const Spec& spec, const container::Directories& directories,
                    const std::function<void(const std::string&)>& warn);

struct ExecRequest {
  std::vector<std::string> command;
  std::vector<std::string> environment;
  std::string workdir, user;
  bool tty = false, interactive = false, detach = false;
  bool intercept = false;  // set by exec(), as the container has it
};
// Another process in a running container: its namespaces, cgroup, capabilities, views. ESRCH when
// the container does not run. The same demands on the caller as run().
Result<Outcome> exec(const Launched& launched, const container::Directories& directories,
                     const ExecRequest& request);

// SIGTERM (or `signal`), then after `grace_s` SIGKILL; waits until it is gone and tidied up. As for
// every init of a pid namespace, the kernel drops a signal that init has no handler for.
Result<void> stop(const Launched& launched, const container::Directories& directories, int signal,
                  unsigned grace_s);

// Of a command that the kernel refused to execute.
Outcome not_executed(const Error& error);

}  // namespace umwelt::launch
