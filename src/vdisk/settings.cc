// SPDX-License-Identifier: Apache-2.0
#include "vdisk/settings.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include "base/file.h"
#include "base/parse.h"

namespace umwelt::vdisk {
namespace {

constexpr std::int64_t kMaxReady = 1000, kMaxIntervalS = 86400;

// A size is a string ("10g") or a number of bytes.
std::optional<std::uint64_t> size_of(const toml::node& node) {
  if (const auto text = node.value_exact<std::string>()) return parse_size(*text);
  const auto number = node.value_exact<std::int64_t>();
  if (!number || *number < 0) return std::nullopt;
  return static_cast<std::uint64_t>(*number);
}

// What is wrong with the value, "" when nothing is.
std::string apply(Settings& settings, std::string_view key, const toml::node& node) {
  const auto size = [&](auto& field) -> std::string {
    const auto bytes = size_of(node);
    if (!bytes) return "must be a size, such as \"10g\"";
    field = *bytes;
    return {};
  };
  const auto number = [&](unsigned& field, std::int64_t most) -> std::string {
    const auto value = node.value_exact<std::int64_t>();
    if (!value || *value < 0 || *value > most) return fmt::format("must be 0 to {}", most);
    field = static_cast<unsigned>(*value);
    return {};
  };
  if (key == "policy") {
    const auto policy = parse_overcommit(node.value_exact<std::string>().value_or(""));
    if (!policy) return "must be \"reserve\" or \"overcommit=RATIO\"";
    settings.policy.overcommit = *policy;
    return {};
  }
  if (key == "pool_size") return size(settings.policy.size_bytes);
  if (key == "low_water") return size(settings.policy.low_water_bytes);
  if (key == "critical") return size(settings.policy.critical_bytes);
  if (key == "ballast") return size(settings.ballast_bytes);
  if (key == "ready") return number(settings.ready, kMaxReady);
  if (key == "ready_size") {
    std::string wrong = size(settings.ready_bytes);
    if (wrong.empty() &&
        (settings.ready_bytes < kMinCapacityBytes || settings.ready_bytes > kMaxCapacityBytes ||
         settings.ready_bytes % 4096 != 0))
      wrong = "must be a whole number of blocks of 4096 bytes, from 32m to 64t";
    return wrong;
  }
  if (key == "ready_class") {
    const std::string word = node.value_exact<std::string>().value_or("");
    for (const Class c : {Class::kThin, Class::kGuaranteed, Class::kScratch}) {
      if (word != name_of(c)) continue;
      settings.ready_class = c;
      return {};
    }
    return "must be thin, guaranteed or scratch";
  }
  if (key == "trim_interval_s") return number(settings.trim_interval_s, kMaxIntervalS);
  return "is not known";
}

}  // namespace

Result<Settings> parse_settings(std::string_view toml_text, const std::string& path) {
  Settings settings;
  toml::table table;
  try {
    table = toml::parse(toml_text);
  } catch (const toml::parse_error& error) {
    return fail(0, fmt::format("{}:{}: {}", path, error.source().begin.line, error.description()));
  }
  const toml::node* disk = table.get("disk");
  if (disk == nullptr) return settings;
  if (!disk->is_table())
    return fail(0, fmt::format("{}:{}: disk must be a table", path, disk->source().begin.line));
  for (const auto& [key, node] : *disk->as_table())
    if (const std::string wrong = apply(settings, key.str(), node); !wrong.empty())
      return fail(
          0, fmt::format("{}:{}: disk.{} {}", path, node.source().begin.line, key.str(), wrong));
  const Policy& policy = settings.policy;
  if (policy.low_water_bytes && policy.critical_bytes.value_or(0) > *policy.low_water_bytes)
    return fail(0, fmt::format("{}:{}: disk.critical must be at most disk.low_water", path,
                               disk->as_table()->get("critical")->source().begin.line));
  return settings;
}

Result<Settings> read_settings(const std::string& path) {
  const auto text = read_file(path, 1U << 20);
  if (text) return parse_settings(*text, path);
  if (text.error().code == ENOENT) return Settings{};
  return fail(text.error());
}

}  // namespace umwelt::vdisk
