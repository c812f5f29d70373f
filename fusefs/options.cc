// SPDX-License-Identifier: Apache-2.0
#include "fusefs/options.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <thread>

#include "base/file.h"
#include "vdisk/settings.h"

namespace umwelt::fusefs {
namespace {

constexpr const char* kLogLevels[] = {"trace", "debug", "info", "warning", "error"};
constexpr unsigned kMaxThreads = 64;

// What lxcfs(1) understands and has no meaning here, and why not.
constexpr const char* kLxcfsFlags[][2] = {
    {"-l,--enable-loadavg", "load averages are always the container's"},
    {"-u,--disable-swap", "the swap that is shown is what the cgroup allows"},
    {"--enable-cfs", "CPU quotas always count"},
    {"--enable-pidfd", "processes are always followed by pidfd"},
    {"--enable-cgroup", "cgroup namespaces show cgroups"},
    {"--enable-psi-poll", "pressure files always take triggers"}};

void add_lxcfs_options(CLI::App& app, Options& options) {
  CLI::Option* compat =
      app.add_option(
             "--lxcfs-compat", options.lxcfs,
             "Serve the shared tree at DIR too, in lxcfs's place, and understand its options")
          ->type_name("DIR");
  for (const auto& [name, reason] : kLxcfsFlags)
    app.add_flag_callback(
           name,
           [&options, name = name, reason = reason] {
             options.notes.push_back(fmt::format("{}: {}", name, reason));
           },
           "As lxcfs; makes no difference")
        ->needs(compat);
  app.add_option_function<std::string>(
         "-o", [&options](const std::string&) { options.notes.emplace_back("-o: not passed on"); },
         "As lxcfs; makes no difference")
      ->type_name("OPTIONS")
      ->needs(compat);
  app.add_option("-p,--pidfile", options.pid_file, "As lxcfs: a file that gets the process id")
      ->type_name("FILE")
      ->needs(compat);
  app.add_flag_callback(
         "-d,--debug",
         [&options] {
           options.foreground = true;
           options.log_level = "debug";
         },
         "As lxcfs: stay in the foreground and log more")
      ->needs(compat);
}

std::string at(const std::string& path, const toml::source_region& source) {
  return fmt::format("{}:{}", path, source.begin.line);
}

bool is_log_level(std::string_view text) {
  return std::find(std::begin(kLogLevels), std::end(kLogLevels), text) != std::end(kLogLevels);
}

Result<Settings> read_settings(const std::string& path, bool must_exist) {
  auto text = read_file(path, 1U << 20);
  if (text) return parse_settings(*text, path);
  if (text.error().code == ENOENT && !must_exist) return Settings{};
  return fail(text.error());
}

}  // namespace

Result<Settings> parse_settings(std::string_view toml_text, const std::string& path) {
  Settings settings;
  toml::table table;
  try {
    table = toml::parse(toml_text);
  } catch (const toml::parse_error& error) {
    return fail(0, fmt::format("{}: {}", at(path, error.source()), error.description()));
  }
  for (const auto& [key, node] : table) {
    const std::string place = at(path, node.source());
    if (key == "log_level") {
      settings.log_level = node.value_exact<std::string>();
      if (!settings.log_level || !is_log_level(*settings.log_level))
        return fail(
            0, fmt::format("{}: log_level must be one of {}", place, fmt::join(kLogLevels, ", ")));
    } else if (key == "threads") {
      const auto threads = node.value_exact<std::int64_t>();
      if (!threads || *threads < 1 || *threads > kMaxThreads)
        return fail(0, fmt::format("{}: threads must be 1 to {}", place, kMaxThreads));
      settings.threads = static_cast<unsigned>(*threads);
    } else if (key == "disk") {
      if (const auto disk = vdisk::parse_settings(toml_text, path); !disk)
        return fail(disk.error());
    } else {
      return fail(0, fmt::format("{}: unknown key '{}'", place, key.str()));
    }
  }
  return settings;
}

std::optional<Options> parse_options(int argc, char** argv, int& code) {
  Options options;
  options.arguments.assign(argv + 1, argv + argc);
  std::string runtime, state, config;
  CLI::App app("Serves /proc and /sys files of containers.", "umweltd");
  app.set_version_flag("-v,--version", "umweltd " UMWELT_VERSION);
  app.add_flag("-f,--foreground", options.foreground, "Stay in the foreground, log to stderr");
  app.add_option("--runtime-dir", runtime, "Socket, mounts, records (default /run/umwelt)")
      ->type_name("DIR");
  app.add_option("--state-dir", state, "The shared tree (default /var/lib/umwelt)")
      ->type_name("DIR");
  app.add_option("--config", config, "Configuration (default /etc/umwelt/umwelt.toml)")
      ->type_name("FILE");
  app.add_option("--log-level", options.log_level, "trace, debug, info, warning or error")
      ->type_name("LEVEL");
  add_lxcfs_options(app, options);
  app.allow_extras();  // a message of our own
  const auto refuse = [&](const std::string& why) {
    fmt::print(stderr, "umweltd: {}\n", why);
    code = 2;
    return std::nullopt;
  };
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help_or_version) {
    std::ostringstream text;
    code = app.exit(help_or_version, text);
    if (std::fputs(text.str().c_str(), stdout) < 0 || std::fflush(stdout) != 0) {
      fmt::print(stderr, "umweltd: writing to standard output: {}\n", std::strerror(errno));
      code = 1;
    }
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    return refuse(fmt::format("{}; see umweltd --help", error.what()));
  }
  if (const auto extra = app.remaining(); !extra.empty())
    return refuse(fmt::format("{} {}; see umweltd --help",
                              extra.front().starts_with('-') ? "unknown option" : "unexpected",
                              extra.front()));
  for (const std::string& path : {options.lxcfs, options.pid_file})
    if (!path.empty() && path.front() != '/') return refuse(path + " is no absolute path");
  auto directories = container::directories(runtime, state, config);
  if (!directories) return refuse(directories.error().message());
  options.directories = *directories;
  // A file that was asked for must be there.
  const bool must_exist = options.directories.config != container::Directories{}.config;
  const auto settings = read_settings(options.directories.config, must_exist);
  if (!settings) return refuse(settings.error().message());
  if (options.log_level.empty()) options.log_level = settings->log_level.value_or("info");
  if (!is_log_level(options.log_level))
    return refuse(fmt::format("--log-level must be one of {}", fmt::join(kLogLevels, ", ")));
  options.threads =
      settings->threads.value_or(std::clamp(std::thread::hardware_concurrency(), 2U, 8U));
  return options;
}

}  // namespace umwelt::fusefs
