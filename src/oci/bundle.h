// SPDX-License-Identifier: Apache-2.0
// An OCI bundle (a directory with config.json), and what is added to it before a runtime sees it.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "oci/choice.h"
#include "oci/json_text.h"

namespace umwelt::oci {

inline constexpr std::size_t kMaxConfigBytes = 16U << 20;

struct Bundle {
  std::string path;  // absolute
  JsonText config;
  std::string root;  // absolute, without symbolic links
};
// EINVAL for a config.json that is none, EFBIG, ENOENT; ELOOP when the root filesystem itself is a
// symbolic link.
Result<Bundle> read_bundle(const std::string& path);

// What config.json, and docker's labels, ask for. As read_choice() after an error. `name`: the name
// that docker gave the container, "" otherwise.
Result<void> read_bundle_choice(const JsonText& config, Choice& choice, std::string& name);

struct Additions {
  std::vector<std::string> hook;  // argv of the hook up to the stage, the program's path first
  // Unix socket that gets the listener of notified syscalls; "": no syscall is intercepted.
  std::string seccomp_listener;
  std::string former_listener;
  std::string container_id;
  std::vector<std::string> syscalls;  // that are notified
};

// Whether the container's syscalls go to the listener at that path.
bool has_listener(const JsonText& config, const std::string& path);

// The text of a config.json with hooks for createRuntime and poststop, and what else `additions`
// say. Whatever it does not set stays byte for byte. A config that has a seccomp listener of its
// own keeps it (EBUSY in the kernel for a second one). The same text when all of it is there
// already: some bundles are started again and again. Without a listener, one that was added earlier
// (it is at `former_listener`) is taken back.
Result<std::string> add_to_config(const JsonText& config, const Additions& additions);

}  // namespace umwelt::oci
