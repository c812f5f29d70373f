// SPDX-License-Identifier: Apache-2.0
// What a container asks of umwelt, in annotations, labels or environment variables of the same
// names:
//
//   umwelt=off|on|required     required: it must not start with the host's files; on, but for the
//                              sandbox of a pod, which only holds its namespaces
//   umwelt.views=cpu,memory    only these groups of files (launch::view_groups)
//   umwelt.cpu-ids=auto|dense|host
//   umwelt.cpu-policy=ceil|floor|cpuset
//   umwelt.uptime=auto|container|host
//   umwelt.intercept=on|off    whether syscalls are answered too
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "oci/json_text.h"
#include "view/resources.h"

namespace umwelt::oci {

enum class Mode { kOff, kOn, kRequired };

struct Choice {
  Mode mode = Mode::kOn;
  std::vector<std::string> views;  // empty: all
  view::Policy policy;
  bool intercept = true;
};

// One key of the above. EINVAL for an unknown one and for a value that it can't have; a key of
// somebody else (not "umwelt" nor "umwelt.") is no error and changes nothing.
Result<void> apply_choice(std::string_view key, std::string_view value, Choice& choice);

// Of a config.json, and of docker's own file about the container (config.v2.json) if there is one:
// the environment first, which images have too, then labels, then annotations, which win. After an
// error `choice.mode` still says whether "required" is among them.
Result<void> read_choice(const JsonText& config, const JsonText* docker, Choice& choice);

// The container's name in docker's file; "" where it has none.
Result<std::string> read_docker_name(const JsonText& docker);

}  // namespace umwelt::oci
