// SPDX-License-Identifier: Apache-2.0
// Whether an OCI runtime knows SCMP_ACT_NOTIFY, without which it starts no container that has a
// listener: runc since 1.1, crun since 1.0.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace umwelt::oci {

// What `RUNTIME features` prints (runtime-spec features.md). nullopt: no such thing, as of a
// runtime that does not know the command.
std::optional<bool> parse_features(const std::string& text);
// What `RUNTIME --version` prints. False for runtimes that are not known here.
bool parse_version(std::string_view text);

// Answers are kept as lines, "yes KEY" or "no KEY"; the key is a runtime's file, as it is now, and
// its path. Lines that are none are passed over, and left out of the next text.
std::optional<bool> find_answer(std::string_view kept, const std::string& key);
std::string add_answer(std::string_view kept, const std::string& key, bool answer);

// Asks the runtime, once: `kept` is the path of a file for the answers, ours alone. What is there
// in its place and somebody else's, or anything but a file, is not read. Fails when the runtime, of
// the given path, does not answer.
Result<bool> knows_notify(const std::string& runtime, const std::string& kept);

}  // namespace umwelt::oci
