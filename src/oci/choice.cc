// SPDX-License-Identifier: Apache-2.0
#include "oci/choice.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "container/record.h"
#include "launch/view_groups.h"

namespace umwelt::oci {
namespace {

constexpr std::string_view kKey = "umwelt";
constexpr std::string_view kPrefix = "umwelt.";
// Where containerd and CRI-O say which container of a pod it is.
constexpr std::string_view kPodKeys[] = {"io.kubernetes.cri.container-type",
                                         "io.kubernetes.cri-o.ContainerType"};

tl::unexpected<Error> bad(std::string_view key, std::string_view value, std::string_view allowed) {
  std::string shown(value.substr(0, 60));
  std::replace_if(
      shown.begin(), shown.end(), [](char c) { return c < 0x20 || c == 0x7f; }, '?');
  return fail(EINVAL, std::string(key) + "=" + shown + " is not one of " + std::string(allowed));
}

Result<void> apply_mode(std::string_view value, Mode& mode) {
  if (value == "off")
    mode = Mode::kOff;
  else if (value == "on")
    mode = Mode::kOn;
  else if (value == "required")
    mode = Mode::kRequired;
  else
    return bad(kKey, value, "off, on, required");
  return {};
}

Result<void> apply_views(std::string_view value, std::vector<std::string>& views) {
  const std::vector<std::string> groups = launch::view_groups();
  std::string all;
  for (const std::string& group : groups) all += (all.empty() ? "" : ", ") + group;
  views.clear();
  for (std::string_view rest = value; !rest.empty();) {
    const std::string word(rest.substr(0, rest.find(',')));
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    if (std::find(groups.begin(), groups.end(), word) == groups.end())
      return bad("umwelt.views", word, all);
    if (std::find(views.begin(), views.end(), word) == views.end()) views.push_back(word);
  }
  if (views.empty()) return bad("umwelt.views", value, all);
  return {};
}

Result<void> apply_policy(std::string_view field, std::string_view value, view::Policy& policy) {
  nlohmann::json json = container::to_json(policy);
  json[std::string(field)] = std::string(value);
  auto changed = container::policy_from_json(json);
  if (!changed) return fail(EINVAL, changed.error().text);
  policy = *changed;
  return {};
}

Result<void> read_strings(const JsonText& json, const JsonValue* object, Choice& choice) {
  if (object == nullptr) return {};
  for (const JsonMember& member : object->members) {
    if (member.key != kKey && !member.key.starts_with(kPrefix)) continue;
    const std::string value = UMWELT_TRY(json.string(member.value));
    UMWELT_CHECK(apply_choice(member.key, value, choice));
  }
  return {};
}

Result<void> read_environment(const JsonText& json, const JsonValue* environment, Choice& choice) {
  if (environment == nullptr) return {};
  for (const JsonValue& element : environment->elements) {
    // Most are not ours: none is copied for a look.
    if (!json.text(element).substr(1).starts_with(kKey)) continue;
    const std::string entry = UMWELT_TRY(json.string(element));
    const std::size_t equals = entry.find('=');
    if (equals == std::string::npos) continue;
    UMWELT_CHECK(apply_choice(entry.substr(0, equals), entry.substr(equals + 1), choice));
  }
  return {};
}

// The container that only holds a pod's namespaces, in which no program asks for anything.
Result<bool> is_pod_sandbox(const JsonText& json, const JsonValue& annotations) {
  for (const std::string_view key : kPodKeys) {
    const JsonValue* type = UMWELT_TRY(json.find(annotations, key));
    if (type != nullptr && UMWELT_TRY(json.string(*type)) == "sandbox") return true;
  }
  return false;
}

}  // namespace

Result<void> apply_choice(std::string_view key, std::string_view value, Choice& choice) {
  if (key == kKey) return apply_mode(value, choice.mode);
  if (!key.starts_with(kPrefix)) return {};
  const std::string_view name = key.substr(kPrefix.size());
  if (name == "views") return apply_views(value, choice.views);
  if (name == "cpu-ids") return apply_policy("cpu_ids", value, choice.policy);
  if (name == "cpu-policy") return apply_policy("cpus", value, choice.policy);
  if (name == "uptime") return apply_policy("uptime", value, choice.policy);
  if (name == "intercept") {
    if (value != "on" && value != "off") return bad(key, value, "on, off");
    choice.intercept = value == "on";
    return {};
  }
  return bad("umwelt.", name, "views, cpu-ids, cpu-policy, uptime, intercept");
}

Result<void> read_choice(const JsonText& config, Choice& choice) {
  const JsonValue* annotations = UMWELT_TRY(config.find(config.root(), "annotations"));
  // First of all: an error in anything else must not open what is required.
  if (annotations != nullptr) {
    if (UMWELT_TRY(is_pod_sandbox(config, *annotations))) choice.mode = Mode::kOff;
    if (const JsonValue* mode = UMWELT_TRY(config.find(*annotations, kKey))) {
      const std::string value = UMWELT_TRY(config.string(*mode));
      UMWELT_CHECK(apply_mode(value, choice.mode));
    }
  }
  if (const JsonValue* process = UMWELT_TRY(config.find(config.root(), "process"))) {
    const JsonValue* environment = UMWELT_TRY(config.find(*process, "env"));
    UMWELT_CHECK(read_environment(config, environment, choice));
  }
  return read_strings(config, annotations, choice);
}

Result<void> read_docker_labels(const JsonText& file, Choice& choice, std::string& name) {
  if (const JsonValue* field = UMWELT_TRY(file.find(file.root(), "Name")))
    if (auto text = file.string(*field)) name = text->substr(text->starts_with('/') ? 1 : 0);
  const JsonValue* config = UMWELT_TRY(file.find(file.root(), "Config"));
  if (config == nullptr) return {};
  return read_strings(file, UMWELT_TRY(file.find(*config, "Labels")), choice);
}

}  // namespace umwelt::oci
