// SPDX-License-Identifier: Apache-2.0
#include "oci/choice.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/parse.h"
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
  return fail(EINVAL, std::string(key) + shown + " is not one of " + std::string(allowed));
}

Result<Mode> parse_mode(std::string_view value) {
  if (value == "off") return Mode::kOff;
  if (value == "on") return Mode::kOn;
  if (value == "required") return Mode::kRequired;
  return bad("umwelt=", value, "off, on, required");
}

Result<void> apply_views(std::string_view value, std::vector<std::string>& views) {
  const std::vector<std::string> groups = launch::view_groups();
  std::string all;
  for (const std::string& group : groups) all += (all.empty() ? "" : ", ") + group;
  views.clear();
  for (std::string_view rest = value; !rest.empty();) {
    const std::string word(next_part(rest, ','));
    if (std::find(groups.begin(), groups.end(), word) == groups.end())
      return bad("umwelt.views=", word, all);
    if (std::find(views.begin(), views.end(), word) == views.end()) views.push_back(word);
  }
  if (views.empty()) return bad("umwelt.views=", value, all);
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

// Of annotations or labels (null: there are none). Not JsonText::find(): images have some too, and
// a key that differs in case is another one here.
const JsonValue* find_exact(const JsonValue* object, std::string_view key) {
  if (object == nullptr) return nullptr;
  for (const JsonMember& member : object->members)
    if (member.key == key) return &member.value;
  return nullptr;
}

Result<void> read_mode(const JsonText& json, const JsonValue* object, std::optional<Mode>& mode) {
  const JsonValue* field = find_exact(object, kKey);
  if (field == nullptr) return {};
  const std::string value = UMWELT_TRY(json.string(*field));
  mode = UMWELT_TRY(parse_mode(value));
  return {};
}

Result<const JsonValue*> labels_of(const JsonText& docker) {
  const JsonValue* config = UMWELT_TRY(docker.find(docker.root(), "Config"));
  return config == nullptr ? nullptr : docker.find(*config, "Labels");
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

// The mode first: an error in anything else must not open what is required.
Result<void> read_environment(const JsonText& json, Choice& choice) {
  const JsonValue* process = UMWELT_TRY(json.find(json.root(), "process"));
  if (process == nullptr) return {};
  const JsonValue* environment = UMWELT_TRY(json.find(*process, "env"));
  if (environment == nullptr) return {};
  Result<void> done;
  for (const bool mode : {true, false})
    for (const JsonValue& element : environment->elements) {
      // Most are not ours: none is copied for a look.
      if (!json.text(element).substr(1).starts_with(kKey)) continue;
      const auto entry = json.string(element);
      if (!entry) done = fail(entry.error());
      const std::size_t equals = entry ? entry->find('=') : std::string::npos;
      if (equals == std::string::npos || (entry->substr(0, equals) == kKey) != mode) continue;
      auto applied = apply_choice(entry->substr(0, equals), entry->substr(equals + 1), choice);
      if (!applied && done) done = applied;
    }
  return done;
}

// The container that only holds a pod's namespaces, in which no program asks for anything.
bool is_pod_sandbox(const JsonText& json, const JsonValue* annotations) {
  return std::any_of(std::begin(kPodKeys), std::end(kPodKeys), [&](std::string_view key) {
    const JsonValue* type = find_exact(annotations, key);
    return type != nullptr && json.string(*type).value_or("") == "sandbox";
  });
}

}  // namespace

Result<void> apply_choice(std::string_view key, std::string_view value, Choice& choice) {
  if (key == kKey) {
    choice.mode = UMWELT_TRY(parse_mode(value));
    return {};
  }
  if (!key.starts_with(kPrefix)) return {};
  const std::string_view name = key.substr(kPrefix.size());
  if (name == "views") return apply_views(value, choice.views);
  if (name == "cpu-ids") return apply_policy("cpu_ids", value, choice.policy);
  if (name == "cpu-policy") return apply_policy("cpus", value, choice.policy);
  if (name == "uptime") return apply_policy("uptime", value, choice.policy);
  if (name == "intercept") {
    if (value != "on" && value != "off") return bad("umwelt.intercept=", value, "on, off");
    choice.intercept = value == "on";
    return {};
  }
  return bad("umwelt.", name, "views, cpu-ids, cpu-policy, uptime, intercept");
}

Result<void> read_choice(const JsonText& config, const JsonText* docker, Choice& choice) {
  const JsonValue* annotations = UMWELT_TRY(config.find(config.root(), "annotations"));
  const JsonValue* labels = docker == nullptr ? nullptr : UMWELT_TRY(labels_of(*docker));
  if (is_pod_sandbox(config, annotations)) choice.mode = Mode::kOff;
  // First of all, and both: an error in anything else must not open what is required.
  std::optional<Mode> mode;
  const auto of_labels = docker == nullptr ? Result<void>() : read_mode(*docker, labels, mode);
  const auto of_annotations = read_mode(config, annotations, mode);
  // Images have one too: it has no say where whoever runs them said something.
  const auto of_environment = read_environment(config, choice);
  if (mode) choice.mode = *mode;
  UMWELT_CHECK(of_labels);
  UMWELT_CHECK(of_annotations);
  UMWELT_CHECK(of_environment);
  if (docker != nullptr) UMWELT_CHECK(read_strings(*docker, labels, choice));
  return read_strings(config, annotations, choice);
}

Result<std::string> read_docker_name(const JsonText& docker) {
  const JsonValue* field = UMWELT_TRY(docker.find(docker.root(), "Name"));
  const std::string name = field == nullptr ? "" : docker.string(*field).value_or("");
  return name.substr(name.starts_with('/') ? 1 : 0);
}

}  // namespace umwelt::oci
