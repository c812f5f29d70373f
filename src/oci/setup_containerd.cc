// SPDX-License-Identifier: Apache-2.0
#include <toml++/toml.h>

#include <algorithm>

#include "base/parse.h"
#include "oci/json_text.h"
#include "oci/setup.h"

namespace umwelt::oci {
namespace {

struct Place {  // of CRI's runtimes, by the version of the file
  std::int64_t version;
  const char* plugin;
};
constexpr Place kPlaces[] = {{2, "io.containerd.grpc.v1.cri"}, {3, "io.containerd.cri.v1.runtime"}};
constexpr const char* kOption = "BinaryName";

// The runtime of pods that name none.
struct DefaultRuntime {
  std::string name;
  toml::node_view<toml::node> table, options;
};
DefaultRuntime default_runtime(toml::table& table, const char* plugin) {
  const auto containerd = table["plugins"][plugin]["containerd"];
  const auto name = containerd["default_runtime_name"].value_or(std::string());
  DefaultRuntime out{name.empty() ? "runc" : name, {}, {}};
  out.table = containerd["runtimes"][out.name];
  out.options = out.table["options"];
  return out;
}

// The line after which an option of `table` can be inserted; nullopt: there is no such header.
std::optional<std::size_t> end_of_header(const std::string& text, toml::table& table) {
  const auto line = table.source().begin.line;
  if (line == 0 || table.is_inline()) return std::nullopt;
  std::size_t at = 0;
  for (toml::source_index i = 1; i <= line; ++i) {
    at = text.find('\n', at);
    if (at == std::string::npos) return std::nullopt;
    ++at;
  }
  return at;
}

// Whether a file without a version means the same as version 2: the names of plugins differ.
bool names_no_plugin(const toml::table& table) {
  for (const char* key : {"disabled_plugins", "required_plugins"})
    if (const auto* list = table[key].as_array(); list != nullptr && !list->empty()) return false;
  const auto* plugins = table["plugins"].as_table();
  return plugins == nullptr || plugins->empty();
}

bool is_without_cri(const toml::table& table) {
  const auto* disabled = table["disabled_plugins"].as_array();
  return disabled != nullptr &&
         std::any_of(disabled->begin(), disabled->end(), [](const toml::node& node) {
           const auto name = node.value_or(std::string());
           return name == "cri" ||
                  std::any_of(std::begin(kPlaces), std::end(kPlaces),
                              [&](const Place& known) { return name == known.plugin; });
         });
}

bool is_without_version(const toml::table& table) {
  return !table["version"] && names_no_plugin(table);
}

Result<Place> find_place(const toml::table& table) {
  const std::int64_t version =
      table["version"].value_or<std::int64_t>(is_without_version(table) ? 2 : 1);
  for (const Place& known : kPlaces)
    if (known.version == version) return known;
  return fail(0, "version " + std::to_string(version) +
                     " is not known: containerd config dump > new.toml, and mv that over it "
                     "(plugins in disabled_plugins have whole names then)");
}

Result<toml::table> parse_toml(const std::string& text) {
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& error) {
    return fail(0, std::string(error.description()));
  }
}

}  // namespace

Result<std::string> find_containerd_program(const std::string& text) {
  toml::table table = UMWELT_TRY(parse_toml(text));
  if (is_without_cri(table)) return std::string();
  const Place place = UMWELT_TRY(find_place(table));
  const DefaultRuntime runtime = default_runtime(table, place.plugin);
  const auto type = runtime.table["runtime_type"].value_or(std::string());
  if ((!runtime.table && runtime.name != "runc") ||
      (!type.empty() && !type.starts_with("io.containerd.runc.")))
    return fail(0, "its default runtime " + runtime.name + " is not run as runc is");
  return runtime.options[kOption].value_or(std::string());
}

Result<std::string> edit_containerd_toml(const std::string& text, const std::string& program) {
  toml::table table = UMWELT_TRY(parse_toml(text));
  if (is_without_cri(table)) return text;
  const Place place = UMWELT_TRY(find_place(table));
  const DefaultRuntime runtime = default_runtime(table, place.plugin);
  const auto& options = runtime.options;
  const auto current = options[kOption].value<std::string>();
  if (current == program) return text;

  const std::string setting = std::string(kOption) + " = " + json_quote(program) + "\n";
  std::string after = text;
  if (current) {
    const auto& source = options[kOption].node()->source();
    std::size_t at = 0;
    for (toml::source_index i = 1; i < source.begin.line; ++i) at = text.find('\n', at) + 1;
    after.replace(at + source.begin.column - 1, source.end.column - source.begin.column,
                  json_quote(program));
  } else if (const auto at = options.as_table() ? end_of_header(text, *options.as_table())
                                                : std::optional<std::size_t>()) {
    after.insert(*at, setting);
  } else {
    if (!after.empty() && after.back() != '\n') after += '\n';
    if (is_without_version(table)) after.insert(0, "version = 2\n");
    const std::string header = std::string("[plugins.\"") + place.plugin +
                               "\".containerd.runtimes." +
                               (runtime.name == "runc" ? runtime.name : json_quote(runtime.name));
    if (!runtime.table) after += "\n" + header + "]\nruntime_type = \"io.containerd.runc.v2\"\n";
    after += "\n" + header + ".options]\n" + setting;
  }
  // The proof of the edit: another parser's eyes.
  try {
    toml::table edited = toml::parse(after);
    if (default_runtime(edited, place.plugin).options[kOption].value_or(std::string()) == program)
      return after;
  } catch (const toml::parse_error&) {
  }
  return fail(0, "its layout is not understood: set " + std::string(kOption) + " = " +
                     json_quote(program) + " in the options of the runtime " + runtime.name +
                     " by hand");
}

}  // namespace umwelt::oci
