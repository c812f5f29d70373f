// SPDX-License-Identifier: Apache-2.0
#include "cli/run_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "base/parse.h"
#include "cli/output.h"
#include "vdisk/record.h"

namespace umwelt::cli {
namespace {

constexpr std::size_t kMaxEnvironmentFileBytes = 1U << 20;

tl::unexpected<Error> bad(std::string_view text, std::string_view allowed) {
  return fail(0, fmt::format("'{}' is not {}", printable(text, 60), allowed));
}

Result<std::string> parse_source(std::string_view text) {
  const std::string path = UMWELT_TRY(parse_absolute_path(text));
  std::error_code error;
  if (!std::filesystem::exists(path, error))
    return fail(0, fmt::format("{} is not there: make it first", printable(path, 200)));
  return path;
}

// The name of a volume, or the path of something on the host.
Result<std::string> parse_volume_source(std::string_view text, launch::MountType& type) {
  type = launch::MountType::kBind;
  if (text.starts_with('/')) return parse_source(text);
  if (!vdisk::valid_name(text) || text.starts_with(vdisk::kVolumePrefix))
    return bad(text, "an absolute path or the name of a volume");
  type = launch::MountType::kVolume;
  return std::string(text);
}

Result<std::string> parse_target(std::string_view text) {
  const std::string path = UMWELT_TRY(parse_absolute_path(text));
  const std::string normal = std::filesystem::path(path).lexically_normal().string();
  const auto within = [&](const std::string& root) {
    return normal == root || normal.starts_with(root + "/");
  };
  for (std::string_view rest = path; !rest.empty();)
    if (next_part(rest, '/') == "..") return bad(text, "a target without '..'");
  if (normal == "/" || within("/proc"))
    return fail(0, fmt::format("nothing can be mounted on {}", printable(path, 200)));
  return normal;
}

Result<std::uint64_t> parse_tmpfs_size(std::string_view text) {
  const auto bytes = parse_size(text);
  if (!bytes || *bytes == 0) return bad(text, "a size, such as 64m");
  return *bytes;
}

Result<mode_t> parse_mode(std::string_view text) {
  mode_t mode = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), mode, 8);
  if (error != std::errc() || end != text.data() + text.size() || mode > 07777)
    return bad(text, "an octal mode, such as 1777");
  return mode;
}

Result<void> set_field(launch::Mount& mount, std::string_view key, std::string_view value,
                       std::string_view whole) {
  if (key == "type" && value == "bind") {
    mount.type = launch::MountType::kBind;
  } else if (key == "type" && value == "tmpfs") {
    mount.type = launch::MountType::kTmpfs;
  } else if (key == "type" && value == "volume") {
    mount.type = launch::MountType::kVolume;
  } else if (key == "type") {
    return bad(value, "a type of mount: bind, tmpfs or volume");
  } else if (key == "source" || key == "src") {
    mount.source = std::string(value);
  } else if (key == "target" || key == "dst" || key == "destination") {
    mount.target = UMWELT_TRY(parse_target(value));
  } else if (key == "readonly" || key == "ro") {
    mount.read_only = value.empty() || value == "true" || value == "1";
    if (!mount.read_only && value != "false" && value != "0")
      return bad(value, "true or false for readonly");
  } else if (key == "tmpfs-size") {
    mount.size_bytes = UMWELT_TRY(parse_tmpfs_size(value));
  } else if (key == "tmpfs-mode") {
    mount.mode = UMWELT_TRY(parse_mode(value));
  } else {
    return fail(0, fmt::format("'{}': '{}' is not known, see umwelt run --help",
                               printable(whole, 60), printable(key, 40)));
  }
  return {};
}

}  // namespace

Result<launch::Mount> parse_volume(std::string_view text) {
  std::string_view rest = text;
  const std::string_view source = next_part(rest, ':');
  const std::string_view target = next_part(rest, ':');
  if (target.empty() || (!rest.empty() && rest != "ro" && rest != "rw"))
    return bad(text, "a volume: SOURCE:TARGET or SOURCE:TARGET:ro");
  launch::Mount mount;
  mount.source = UMWELT_TRY(parse_volume_source(source, mount.type));
  mount.target = UMWELT_TRY(parse_target(target));
  mount.read_only = rest == "ro";
  return mount;
}

Result<launch::Mount> parse_mount(std::string_view text) {
  launch::Mount mount;
  bool typed = false;
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view value = next_part(rest, ',');
    const std::string_view key = next_part(value, '=');
    typed |= key == "type";
    UMWELT_CHECK(set_field(mount, key, value, text));
  }
  const bool tmpfs = mount.type == launch::MountType::kTmpfs;
  if (mount.target.empty()) return bad(text, "a mount: it has no target=");
  if (!tmpfs && mount.source.empty()) return bad(text, "a mount: it has no source=");
  if (tmpfs && !mount.source.empty()) return bad(text, "a mount: a tmpfs has no source");
  if (!typed)
    mount.source = UMWELT_TRY(parse_volume_source(mount.source, mount.type));
  else if (mount.type == launch::MountType::kBind)
    mount.source = UMWELT_TRY(parse_source(mount.source));
  if (mount.type == launch::MountType::kVolume && !vdisk::valid_name(mount.source))
    return bad(mount.source, "the name of a volume");
  if (!tmpfs && (mount.size_bytes || mount.mode))
    return bad(text, "a mount: tmpfs-size and tmpfs-mode are for type=tmpfs");
  return mount;
}

Result<launch::Mount> parse_tmpfs(std::string_view text) {
  std::string_view options = text;
  launch::Mount mount;
  mount.type = launch::MountType::kTmpfs;
  mount.target = UMWELT_TRY(parse_target(next_part(options, ':')));
  while (!options.empty()) {
    std::string_view value = next_part(options, ',');
    const std::string_view key = next_part(value, '=');
    if (key == "size")
      mount.size_bytes = UMWELT_TRY(parse_tmpfs_size(value));
    else if (key == "mode")
      mount.mode = UMWELT_TRY(parse_mode(value));
    else if (key == "ro")
      mount.read_only = true;
    else if (key != "rw" && key != "nosuid" && key != "nodev" && key != "noexec")
      return fail(0, fmt::format("'{}': '{}' is not one of size=, mode=, ro, rw",
                                 printable(text, 60), printable(key, 40)));
  }
  return mount;
}

Result<std::string> parse_environment(std::string_view text) {
  const std::size_t equals = text.find('=');
  if (text.empty() || equals == 0) return bad(text, "KEY=value or KEY");
  if (equals != std::string_view::npos) return std::string(text);
  const char* value = std::getenv(std::string(text).c_str());
  return value == nullptr ? std::string() : fmt::format("{}={}", text, value);
}

Result<std::vector<std::string>> parse_environment_file(std::string_view text) {
  std::vector<std::string> variables;
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  while (auto line = next_line(text)) {
    if (line->ends_with('\r')) line->remove_suffix(1);
    line->remove_prefix(std::min(line->find_first_not_of(" \t"), line->size()));
    if (line->empty() || line->starts_with('#')) continue;
    const std::string_view key = line->substr(0, line->find('='));
    if (key.find_first_of(" \t") != std::string_view::npos ||
        line->find('\0') != std::string_view::npos)
      return bad(*line, "KEY=value or KEY");
    std::string variable = UMWELT_TRY(parse_environment(*line));
    if (!variable.empty()) variables.push_back(std::move(variable));
  }
  return variables;
}

Result<std::string> parse_hostname(std::string_view text) {
  const bool good = !text.empty() && text.size() <= 64 && text.front() != '-' &&
                    std::all_of(text.begin(), text.end(), [](char c) {
                      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                             (c >= '0' && c <= '9') || c == '-' || c == '.';
                    });
  if (!good) return bad(text, "a hostname: 1 to 64 letters, digits, '-' and '.'");
  return std::string(text);
}

Result<launch::Network> parse_network(std::string_view text) {
  if (text == "host") return launch::Network::kHost;
  if (text == "none") return launch::Network::kNone;
  return bad(text, "host or none");
}

Result<launch::Views> parse_views(std::string_view text) {
  if (text == "required") return launch::Views::kRequired;
  if (text == "best-effort") return launch::Views::kBestEffort;
  return bad(text, "required or best-effort");
}

Result<bool> parse_on_off(std::string_view text) {
  if (text == "on") return true;
  if (text == "off") return false;
  return bad(text, "on or off");
}

Result<std::string> parse_absolute_path(std::string_view text) {
  if (!text.starts_with('/')) return bad(text, "an absolute path");
  return std::string(text);
}

void add_environment_options(CLI::App& command, EnvironmentOptions& options) {
  add_repeated(
      command, "-e,--env", "KEY=VALUE", parse_environment,
      [&options](std::string variable) {
        if (!variable.empty()) options.variables.push_back(std::move(variable));
      },
      "set a variable; KEY alone takes it from here");
  add_repeated<std::string>(
      command, "--env-file", "FILE",
      [](std::string_view text) -> Result<std::string> { return std::string(text); },
      [&options](std::string file) { options.files.push_back(std::move(file)); },
      "set variables from lines KEY=VALUE");
}

Result<std::vector<std::string>> read_environment(const EnvironmentOptions& options) {
  std::vector<std::string> variables;
  for (const std::string& file : options.files) {
    const std::string text = UMWELT_TRY(read_file(file, kMaxEnvironmentFileBytes));
    auto parsed = parse_environment_file(text);
    if (!parsed) return fail(0, fmt::format("--env-file {}: {}", file, parsed.error().text));
    variables.insert(variables.end(), parsed->begin(), parsed->end());
  }
  variables.insert(variables.end(), options.variables.begin(), options.variables.end());
  return variables;
}

}  // namespace umwelt::cli
