// SPDX-License-Identifier: Apache-2.0
#include <toml++/toml.h>

#include <algorithm>

#include "base/parse.h"
#include "oci/json_text.h"
#include "oci/setup.h"

namespace umwelt::oci {
namespace {

struct Place {  // of the options of the runtime runc, by the version of the file
  std::int64_t version;
  const char* plugin;
};
constexpr Place kPlaces[] = {{2, "io.containerd.grpc.v1.cri"}, {3, "io.containerd.cri.v1.runtime"}};
constexpr const char* kOption = "BinaryName";

toml::node_view<toml::node> options_of(toml::table& table, const char* plugin) {
  return table["plugins"][plugin]["containerd"]["runtimes"]["runc"]["options"];
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

}  // namespace

Result<std::string> edit_containerd_toml(const std::string& text, const std::string& program) {
  toml::table table;
  try {
    table = toml::parse(text);
  } catch (const toml::parse_error& error) {
    return fail(0, std::string(error.description()));
  }
  if (is_without_cri(table)) return text;
  const bool without_version = !table["version"] && names_no_plugin(table);
  const std::int64_t version = table["version"].value_or<std::int64_t>(without_version ? 2 : 1);
  const Place* place = nullptr;
  for (const Place& known : kPlaces)
    if (known.version == version) place = &known;
  if (place == nullptr)
    return fail(0, "version " + std::to_string(version) +
                       " is not known: containerd config dump > new.toml, and mv that over it "
                       "(plugins in disabled_plugins have whole names then)");
  auto options = options_of(table, place->plugin);
  const auto current = options[kOption].value<std::string>();
  if (current == program) return text;
  if (current && !current->empty() && *current != "runc")
    return fail(0, "runc's BinaryName is " + *current + " already: remove it first");

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
    if (without_version) after.insert(0, "version = 2\n");
    const std::string runc =
        std::string("[plugins.\"") + place->plugin + "\".containerd.runtimes.runc";
    if (!options_of(table, place->plugin) &&
        !table["plugins"][place->plugin]["containerd"]["runtimes"]["runc"])
      after += "\n" + runc + "]\nruntime_type = \"io.containerd.runc.v2\"\n";
    after += "\n" + runc + ".options]\n" + setting;
  }
  // The proof of the edit: another parser's eyes.
  try {
    toml::table edited = toml::parse(after);
    if (options_of(edited, place->plugin)[kOption].value_or(std::string()) == program) return after;
  } catch (const toml::parse_error&) {
  }
  return fail(0, "its layout is not understood: set " + std::string(kOption) + " = " +
                     json_quote(program) + " in the options of the runtime runc by hand");
}

}  // namespace umwelt::oci
