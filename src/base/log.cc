// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace umwelt {

bool setup_log(const std::string& level) {
  const auto value = spdlog::level::from_str(level);
  if (value == spdlog::level::off && level != "off") return false;
  auto logger = spdlog::stderr_color_mt("umwelt");
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
  logger->set_level(value);
  spdlog::set_default_logger(std::move(logger));
  return true;
}

}  // namespace umwelt
