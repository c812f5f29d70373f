// SPDX-License-Identifier: Apache-2.0
#include "oci/bundle.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>

#include "base/file.h"

namespace umwelt::oci {
namespace {

constexpr std::size_t kMaxLabelsBytes = 16U << 20;
constexpr std::size_t kMaxSearchedBytes = 256U << 20;  // for a word, where it is not parsed
// Of a filter that we make: programs of an architecture that it lacks are killed.
constexpr const char* kArchitectures = "\"SCMP_ARCH_X86_64\",\"SCMP_ARCH_X86\",\"SCMP_ARCH_X32\"";
constexpr const char* kNotify = "\"SCMP_ACT_NOTIFY\"";

Result<std::string> real_path(const std::string& path) {
  char resolved[PATH_MAX];
  if (::realpath(path.c_str(), resolved) == nullptr) return fail_errno("resolve " + path);
  return std::string(resolved);
}

// docker mounts a container's /etc/hostname from the directory that has its own description.
Result<std::string> docker_directory(const JsonText& config) {
  const JsonValue* mounts = UMWELT_TRY(config.find(config.root(), "mounts"));
  if (mounts == nullptr) return std::string();
  for (const JsonValue& mount : mounts->elements) {
    const JsonValue* destination = UMWELT_TRY(config.find(mount, "destination"));
    if (destination == nullptr || config.text(*destination) != "\"/etc/hostname\"") continue;
    const JsonValue* source = UMWELT_TRY(config.find(mount, "source"));
    if (source == nullptr) continue;
    const std::string path = UMWELT_TRY(config.string(*source));
    const std::size_t slash = path.rfind('/');
    if (path.find("/containers/") != std::string::npos) return path.substr(0, slash);
  }
  return std::string();
}

Result<std::optional<JsonText>> read_docker_file(const JsonText& config) {
  const std::string directory = UMWELT_TRY(docker_directory(config));
  if (directory.empty()) return std::optional<JsonText>();
  auto text =
      UMWELT_TRY(read_optional_at(AT_FDCWD, directory + "/config.v2.json", kMaxLabelsBytes));
  if (!text) return std::optional<JsonText>();
  return std::optional<JsonText>(UMWELT_TRY(JsonText::parse(*std::move(text))));
}

std::string json_array(const std::vector<std::string>& words) {
  std::string out = "[";
  for (const std::string& word : words) out += (out.size() > 1 ? "," : "") + json_quote(word);
  return out + "]";
}

std::string hook_json(const Additions& additions, const char* stage) {
  std::vector<std::string> argv = additions.hook;
  argv.emplace_back(stage);
  return "{\"path\":" + json_quote(argv.front()) + ",\"args\":" + json_array(argv) + "}";
}

Result<bool> is_hook_of(const JsonText& config, const JsonValue& hook, const std::string& path) {
  const JsonValue* field = UMWELT_TRY(config.find(hook, "path"));
  return field != nullptr && config.string(*field).value_or("") == path;
}

// Whether a hook of the list has this program's path.
Result<bool> has_hook(const JsonText& config, const JsonValue& list, const std::string& path) {
  for (const JsonValue& hook : list.elements)
    if (UMWELT_TRY(is_hook_of(config, hook, path))) return true;
  return false;
}

Result<void> add_hooks(JsonText& config, const Additions& additions) {
  const JsonValue* hooks = UMWELT_TRY(config.find(config.root(), "hooks"));
  if (hooks == nullptr || hooks->kind != JsonValue::Kind::kObject) {
    config.set_member(config.root(), "hooks",
                      "{\"createRuntime\":[" + hook_json(additions, "createRuntime") +
                          "],\"poststop\":[" + hook_json(additions, "poststop") + "]}");
    return {};
  }
  for (const char* stage : {"createRuntime", "poststop"}) {
    const JsonValue* list = UMWELT_TRY(config.find(*hooks, stage));
    if (list == nullptr || list->kind != JsonValue::Kind::kArray)
      config.set_member(*hooks, stage, "[" + hook_json(additions, stage) + "]");
    else if (!UMWELT_TRY(has_hook(config, *list, additions.hook.front())))
      config.append(*list, hook_json(additions, stage));
  }
  return {};
}

Result<void> remove_hooks(JsonText& config, const Additions& additions) {
  const JsonValue* hooks = UMWELT_TRY(config.find(config.root(), "hooks"));
  if (hooks == nullptr) return {};
  for (const char* stage : {"createRuntime", "poststop"}) {
    const JsonValue* list = UMWELT_TRY(config.find(*hooks, stage));
    if (list == nullptr || !UMWELT_TRY(has_hook(config, *list, additions.hook.front()))) continue;
    std::string others;
    for (const JsonValue& hook : list->elements)
      if (!UMWELT_TRY(is_hook_of(config, hook, additions.hook.front())))
        others += (others.empty() ? "" : ",") + std::string(config.text(hook));
    config.replace(*list, "[" + others + "]");
  }
  return {};
}

// What a rule of a seccomp profile does, as far as it matters here.
struct Rule {
  const JsonValue* names = nullptr;
  const JsonValue* action = nullptr;
  std::vector<std::string> ours;    // of its names: that are to be notified
  std::vector<std::string> others;  // the rest of them
  bool permits = false;             // whatever the arguments are
};

bool is_permission(std::string_view quoted_action) {
  return quoted_action == "\"SCMP_ACT_ALLOW\"" || quoted_action == "\"SCMP_ACT_LOG\"";
}

bool contains(const std::vector<std::string>& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

Result<std::vector<Rule>> read_rules(const JsonText& config, const JsonValue& rules,
                                     const std::vector<std::string>& syscalls) {
  std::vector<Rule> out;
  for (const JsonValue& element : rules.elements) {
    Rule rule;
    rule.names = UMWELT_TRY(config.find(element, "names"));
    rule.action = UMWELT_TRY(config.find(element, "action"));
    const JsonValue* args = UMWELT_TRY(config.find(element, "args"));
    if (rule.names == nullptr || rule.action == nullptr) continue;
    rule.permits =
        is_permission(config.text(*rule.action)) && (args == nullptr || args->elements.empty());
    for (const JsonValue& name : rule.names->elements) {
      std::string text = UMWELT_TRY(config.string(name));
      (contains(syscalls, text) ? rule.ours : rule.others).push_back(std::move(text));
    }
    if (!rule.ours.empty()) out.push_back(std::move(rule));
  }
  return out;
}

// Those of `syscalls` that the profile lets everybody make. A rule that denies one, or looks at its
// arguments, is somebody's intention.
std::vector<std::string> permitted(const std::vector<Rule>& rules, bool by_default,
                                   const std::vector<std::string>& syscalls) {
  std::vector<std::string> out;
  for (const std::string& name : syscalls) {
    bool permits = by_default, otherwise = false;
    for (const Rule& rule : rules)
      if (contains(rule.ours, name)) (rule.permits ? permits : otherwise) = true;
    if (permits && !otherwise) out.push_back(name);
  }
  return out;
}

std::string notify_rule(const std::vector<std::string>& names) {
  return "{\"names\":" + json_array(names) + ",\"action\":\"SCMP_ACT_NOTIFY\"}";
}

// Takes the notified syscalls out of the rules that permit them: where two rules match, the more
// permissive one wins, and nothing is said. A rule that is about them alone becomes one of theirs.
// Gives those that have no rule then.
std::vector<std::string> take_out(JsonText& config, const std::vector<Rule>& rules,
                                  const std::vector<std::string>& notified) {
  std::vector<std::string> left = notified;
  for (const Rule& rule : rules) {
    if (!rule.permits) continue;
    std::vector<std::string> kept = rule.others, taken;
    for (const std::string& name : rule.ours)
      (contains(notified, name) ? taken : kept).push_back(name);
    if (taken.empty()) continue;
    if (!kept.empty()) {
      config.replace(*rule.names, json_array(kept));
      continue;
    }
    config.replace(*rule.action, kNotify);
    std::erase_if(left, [&](const std::string& name) { return contains(taken, name); });
  }
  return left;
}

// crun can't start a filter that has a listener and this flag.
Result<bool> has_tsync(const JsonText& config, const JsonValue& seccomp) {
  const JsonValue* flags = UMWELT_TRY(config.find(seccomp, "flags"));
  return flags != nullptr &&
         std::any_of(flags->elements.begin(), flags->elements.end(), [&](const JsonValue& flag) {
           return config.text(flag) == "\"SECCOMP_FILTER_FLAG_TSYNC\"";
         });
}

Result<void> add_listener(JsonText& config, const JsonValue& kernel, const Additions& additions) {
  const std::string path = json_quote(additions.seccomp_listener);
  const std::string metadata = json_quote(additions.container_id);
  const JsonValue* seccomp = UMWELT_TRY(config.find(kernel, "seccomp"));
  if (seccomp == nullptr || seccomp->kind != JsonValue::Kind::kObject) {
    config.set_member(kernel, "seccomp",
                      std::string("{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[") +
                          kArchitectures + "],\"listenerPath\":" + path + ",\"listenerMetadata\":" +
                          metadata + ",\"syscalls\":[" + notify_rule(additions.syscalls) + "]}");
    return {};
  }
  const JsonValue* listener = UMWELT_TRY(config.find(*seccomp, "listenerPath"));
  if (listener != nullptr && config.text(*listener) != "\"\"" && config.text(*listener) != "null")
    return {};
  if (UMWELT_TRY(has_tsync(config, *seccomp))) return {};
  const JsonValue* action = UMWELT_TRY(config.find(*seccomp, "defaultAction"));
  const JsonValue* list = UMWELT_TRY(config.find(*seccomp, "syscalls"));
  const auto rules = list == nullptr ? std::vector<Rule>()
                                     : UMWELT_TRY(read_rules(config, *list, additions.syscalls));
  const auto notified = permitted(rules, action != nullptr && is_permission(config.text(*action)),
                                  additions.syscalls);
  if (notified.empty()) return {};
  const auto left = take_out(config, rules, notified);
  if (list == nullptr || list->kind != JsonValue::Kind::kArray)
    config.set_member(*seccomp, "syscalls", "[" + notify_rule(left) + "]");
  else if (!left.empty())
    config.append(*list, notify_rule(left));
  config.set_member(*seccomp, "listenerPath", path);
  config.set_member(*seccomp, "listenerMetadata", metadata);
  return {};
}

Result<void> remove_listener(JsonText& config, const JsonValue& kernel,
                             const Additions& additions) {
  const JsonValue* seccomp = UMWELT_TRY(config.find(kernel, "seccomp"));
  if (seccomp == nullptr) return {};
  const JsonValue* listener = UMWELT_TRY(config.find(*seccomp, "listenerPath"));
  const JsonValue* rules = UMWELT_TRY(config.find(*seccomp, "syscalls"));
  if (listener == nullptr || rules == nullptr ||
      config.text(*listener) != json_quote(additions.former_listener))
    return {};
  config.replace(*listener, "null");  // crun takes "" for a path
  for (const JsonValue& element : rules->elements) {
    const JsonValue* action = UMWELT_TRY(config.find(element, "action"));
    if (action != nullptr && config.text(*action) == kNotify)
      config.replace(*action, "\"SCMP_ACT_ALLOW\"");
  }
  return {};
}

Result<void> set_listener(JsonText& config, const Additions& additions) {
  const JsonValue* kernel = UMWELT_TRY(config.find(config.root(), "linux"));
  if (kernel == nullptr || kernel->kind != JsonValue::Kind::kObject) return {};
  if (!additions.seccomp_listener.empty()) return add_listener(config, *kernel, additions);
  if (!additions.former_listener.empty()) return remove_listener(config, *kernel, additions);
  return {};
}

// For who can't tell more: a text that is no JSON for us may be some for the runtime.
bool may_require(const std::string& text) {
  return text.find("umwelt") != text.npos && text.find("required") != text.npos;
}

Result<JsonText> parse_config(std::string text, Choice& choice) {
  if (may_require(text)) choice.mode = Mode::kRequired;
  if (text.size() > kMaxConfigBytes) return fail(EFBIG, "config.json");
  JsonText config = UMWELT_TRY(JsonText::parse(std::move(text)));
  choice.mode = Mode::kOn;
  return config;
}

}  // namespace

Result<JsonText> read_config(const std::string& path, Choice& choice, std::string& name) {
  auto text = read_file(path, kMaxSearchedBytes);
  if (!text && text.error().code == EFBIG) choice.mode = Mode::kRequired;
  if (!text) return fail(text.error());
  JsonText config = UMWELT_TRY(parse_config(*std::move(text), choice));
  UMWELT_CHECK(read_bundle_choice(config, choice, name));
  return config;
}

Result<std::string> root_of(const std::string& bundle, const JsonText& config) {
  const JsonValue* root = UMWELT_TRY(config.find(config.root(), "root"));
  const JsonValue* path = root == nullptr ? nullptr : UMWELT_TRY(config.find(*root, "path"));
  if (path == nullptr) return fail(EINVAL, "config.json has no root.path");
  std::string given = UMWELT_TRY(config.string(*path));
  if (given.empty() || given.find('\0') != std::string::npos)
    return fail(EINVAL, "root.path of config.json");
  if (given.front() != '/') given = bundle + "/" + given;
  while (given.size() > 1 && given.back() == '/') given.pop_back();
  struct stat status {};
  if (::lstat(given.c_str(), &status) != 0) return fail_errno("root filesystem " + given);
  if (S_ISLNK(status.st_mode)) return fail(ELOOP, "root filesystem " + given);
  return real_path(given);
}

Result<void> read_bundle_choice(const JsonText& config, Choice& choice, std::string& name) {
  auto docker = read_docker_file(config);
  const Error error = docker ? Error{} : docker.error();
  // What an image has put there, too long to be read, must not hide what is required.
  if (error.code == EFBIG || error.code == EINVAL)
    docker = JsonText::parse(R"({"Config":{"Labels":{"umwelt":"required"}}})").value();
  if (docker && *docker) name = read_docker_name(**docker).value_or("");
  UMWELT_CHECK(read_choice(config, docker && *docker ? &**docker : nullptr, choice));
  if (error.code != 0) return fail(error);
  return {};
}

bool notifies_all(const JsonText& config, const std::string& path,
                  const std::vector<std::string>& syscalls) {
  const auto told = [&]() -> Result<bool> {
    const JsonValue* kernel = UMWELT_TRY(config.find(config.root(), "linux"));
    if (kernel == nullptr) return false;
    const JsonValue* seccomp = UMWELT_TRY(config.find(*kernel, "seccomp"));
    if (seccomp == nullptr) return false;
    const JsonValue* listener = UMWELT_TRY(config.find(*seccomp, "listenerPath"));
    const JsonValue* list = UMWELT_TRY(config.find(*seccomp, "syscalls"));
    if (listener == nullptr || list == nullptr || config.string(*listener).value_or("") != path)
      return false;
    std::vector<std::string> names;
    for (const Rule& rule : UMWELT_TRY(read_rules(config, *list, syscalls)))
      if (config.text(*rule.action) == kNotify)
        names.insert(names.end(), rule.ours.begin(), rule.ours.end());
    return std::all_of(syscalls.begin(), syscalls.end(),
                       [&](const std::string& name) { return contains(names, name); });
  }();
  return told.value_or(false);
}

Result<std::string> add_to_config(const JsonText& config, const Additions& additions) {
  if (config.root().kind != JsonValue::Kind::kObject)
    return fail(EINVAL, "config.json is no JSON object");
  JsonText out = config;
  UMWELT_CHECK(add_hooks(out, additions));
  UMWELT_CHECK(set_listener(out, additions));
  return out.edited();
}

Result<std::string> remove_from_config(const JsonText& config, Additions additions) {
  additions.seccomp_listener.clear();
  JsonText out = config;
  UMWELT_CHECK(remove_hooks(out, additions));
  UMWELT_CHECK(set_listener(out, additions));
  return out.edited();
}

}  // namespace umwelt::oci
