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

// A config.json, what it and docker's labels ask for, and the name that docker gave the container
// ("" otherwise). EINVAL for a file that is none, EFBIG, ENOENT. After an error `choice.mode` is as
// read_choice() leaves it; of a text that can't be parsed it is kRequired when "umwelt" and
// "required" are in it.
Result<JsonText> read_config(const std::string& path, Choice& choice, std::string& name);
// The same of one that is parsed already.
Result<void> read_bundle_choice(const JsonText& config, Choice& choice, std::string& name);

// The root filesystem, absolute and without symbolic links. ELOOP when it is one itself.
Result<std::string> root_of(const std::string& bundle, const JsonText& config);

struct Additions {
  std::vector<std::string> hook;  // argv of the hook up to the stage, the program's path first
  // Unix socket that gets the listener of notified syscalls; "": no syscall is intercepted.
  std::string seccomp_listener;
  std::string former_listener;
  std::string container_id;
  std::vector<std::string> syscalls;  // that are notified
};

// Whether all of `syscalls` go to the listener at that path.
bool notifies_all(const JsonText& config, const std::string& path,
                  const std::vector<std::string>& syscalls);

// The text of a config.json with hooks for createRuntime and poststop, and what else `additions`
// say. Whatever it does not set stays byte for byte. A config that has a seccomp listener of its
// own keeps it (EBUSY in the kernel for a second one). Syscalls are notified that every program may
// make without it; when there is none, there is no listener. The same text when all of it is there
// already: some bundles are started again and again. Without a listener, one that was added earlier
// (it is at `former_listener`) is taken back.
Result<std::string> add_to_config(const JsonText& config, const Additions& additions);
// The text without what add_to_config() has added: hooks of that program and the listener.
Result<std::string> remove_from_config(const JsonText& config, Additions additions);

}  // namespace umwelt::oci
