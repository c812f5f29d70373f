// SPDX-License-Identifier: Apache-2.0
// The configuration of container runtimes: what has to be in it so that every new container gets
// its files. Plans are pure but for reading the files that are there.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "container/record.h"

namespace umwelt::oci {

inline constexpr const char* kRuntimeName = "umwelt";  // in a daemon.json

struct FileEdit {
  std::string path;
  std::optional<std::string> before;  // nullopt: there was no such file
  std::string after;
  friend bool operator==(const FileEdit&, const FileEdit&) = default;
};

struct SetupPlan {
  std::vector<FileEdit> files;    // none: everything is in place
  std::vector<std::string> next;  // what the administrator does then
  std::string real_runtime;       // what runs behind ours, by its path; "": runc
  std::string reload;             // what makes it read its files, also after an undo; "": nothing
};

struct SetupPaths {
  std::string program;  // umwelt-runtime
  std::string umwelt;   // the command line
  std::string state;    // <state>/setup has what undo needs, <state>/runtimes links to `program`
  std::string runtime;  // where the daemon is, when that is not the usual place; else ""
  std::string root;     // before every path of a runtime's file: "" on a machine
  std::string file;     // instead of the runtime's main file, when not empty
};

// Of the program that runs, which has the others beside it.
Result<SetupPaths> own_setup_paths(const container::Directories& directories);

// docker, podman, containerd, crio, lxc, nspawn, cdi
std::vector<std::string> setup_runtimes();

// EINVAL for an unknown runtime; a whole sentence (code 0) for a file that can't be understood.
Result<SetupPlan> plan_setup(const std::string& runtime, const SetupPaths& paths);

// Writes the plan's files, and before them copies of what they were. A second setup keeps the first
// one's copy of a file that is as the first one left it. A file that changed since it was planned,
// or that somebody changed since the first setup and that still names `program`, is not written.
Result<void> apply_setup(const std::string& runtime, const SetupPlan& plan,
                         const SetupPaths& paths);

// What an undo would change. A file that somebody changed since and that does not name us any more
// stays as it is; out of docker's, one that does is what a setup put in. A whole sentence (code 0)
// when that runtime is not set up, and with the file's name when another was changed and names us.
struct UndoStep {
  std::string path, now;
  std::optional<std::string> then;  // nullopt: it is removed
};
Result<std::vector<UndoStep>> plan_undo(const std::string& runtime, const SetupPaths& paths);
// The links to `program` stay: containers that run are stopped through them.
Result<void> apply_undo(const std::string& runtime, const std::vector<UndoStep>& steps,
                        const SetupPaths& paths);

// Whether a setup, with the file that the last one was given, would change nothing.
bool is_set_up(const std::string& runtime, SetupPaths paths);

// The pure parts of the plans. `text` is the file as it is; `arguments` is JSON, "" for none.
Result<std::string> edit_docker_json(const std::string& text, const std::string& name,
                                     const std::string& program, const std::string& arguments);
// The way back from it for one that was changed since; `before` is what was edited.
Result<std::string> restore_docker_json(const std::string& text, const std::string& before,
                                        const std::string& name);
// BinaryName of CRI's default runtime, "" where there is none or CRI is disabled.
Result<std::string> find_containerd_program(const std::string& text);
// Sets it; where CRI is disabled the text as it is.
Result<std::string> edit_containerd_toml(const std::string& text, const std::string& program);

}  // namespace umwelt::oci
