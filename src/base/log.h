// SPDX-License-Identifier: Apache-2.0
// The daemon's log: spdlog's default logger, set up once by main(). Libraries below `container`
// return errors and do not log.
#pragma once

#include <spdlog/spdlog.h>

#include <string>

namespace umwelt {

// Log lines to stderr: "2026-01-02T03:04:05.678 warning text"; colour only on a terminal.
// `level` is one of trace, debug, info, warning, error.
void setup_log(const std::string& level);

}  // namespace umwelt
