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
// Of a filter that we make: programs of an architecture that it lacks are killed.
constexpr const char* kArchitectures = "\"SCMP_ARCH_X86_64\",\"SCMP_ARCH_X86\",\"SCMP_ARCH_X32\"";

Result<std::string> real_path(const std::string& path) {
  char resolved[PATH_MAX];
  if (::realpath(path.c_str(), resolved) == nullptr) return fail_errno("resolve " + path);
  return std::string(resolved);
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

// Whether a hook of the list has this program's path.
Result<bool> has_hook(const JsonText& config, const JsonValue& list, const std::string& path) {
  for (const JsonValue& hook : list.elements) {
    const JsonValue* field = UMWELT_TRY(config.find(hook, "path"));
    if (field != nullptr && config.string(*field).value_or("") == path) return true;
  }
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

// Takes the notified syscalls out of the rules that allow them: where two rules match, the more
// permissive one wins, and nothing is said. True when a rule was about them alone and became
// `rule`.
Result<bool> remove_from_rules(JsonText& config, const JsonValue& rules,
                               const std::vector<std::string>& syscalls, const std::string& rule) {
  bool placed = false;
  for (const JsonValue& element : rules.elements) {
    const JsonValue* names = UMWELT_TRY(config.find(element, "names"));
    if (names == nullptr) continue;
    std::vector<std::string> kept;
    for (const JsonValue& name : names->elements) {
      std::string text = UMWELT_TRY(config.string(name));
      if (std::find(syscalls.begin(), syscalls.end(), text) == syscalls.end())
        kept.push_back(std::move(text));
    }
    if (kept.size() == names->elements.size()) continue;
    if (!kept.empty()) {
      config.replace(*names, json_array(kept));
    } else {
      if (placed) return fail(EINVAL, "two seccomp rules are about the intercepted syscalls alone");
      config.replace(element, rule);
      placed = true;
    }
  }
  return placed;
}

std::string notify_rule(const Additions& additions) {
  return "{\"names\":" + json_array(additions.syscalls) + ",\"action\":\"SCMP_ACT_NOTIFY\"}";
}

Result<void> add_listener(JsonText& config, const JsonValue& kernel, const Additions& additions) {
  const std::string rule = notify_rule(additions);
  const std::string path = json_quote(additions.seccomp_listener);
  const std::string metadata = json_quote(additions.container_id);
  const JsonValue* seccomp = UMWELT_TRY(config.find(kernel, "seccomp"));
  if (seccomp == nullptr || seccomp->kind != JsonValue::Kind::kObject) {
    config.set_member(kernel, "seccomp",
                      std::string("{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[") +
                          kArchitectures + "],\"listenerPath\":" + path +
                          ",\"listenerMetadata\":" + metadata + ",\"syscalls\":[" + rule + "]}");
    return {};
  }
  const JsonValue* listener = UMWELT_TRY(config.find(*seccomp, "listenerPath"));
  if (listener != nullptr && config.text(*listener) != "\"\"") return {};
  const JsonValue* rules = UMWELT_TRY(config.find(*seccomp, "syscalls"));
  if (rules == nullptr || rules->kind != JsonValue::Kind::kArray)
    config.set_member(*seccomp, "syscalls", "[" + rule + "]");
  else if (!UMWELT_TRY(remove_from_rules(config, *rules, additions.syscalls, rule)))
    config.append(*rules, rule);
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
  config.replace(*listener, "\"\"");
  for (const JsonValue& element : rules->elements) {
    const JsonValue* action = UMWELT_TRY(config.find(element, "action"));
    if (action != nullptr && config.text(*action) == "\"SCMP_ACT_NOTIFY\"")
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

}  // namespace

Result<Bundle> read_bundle(const std::string& path) {
  Bundle bundle;
  bundle.path = UMWELT_TRY(real_path(path));
  std::string text = UMWELT_TRY(read_file(bundle.path + "/config.json", kMaxConfigBytes));
  bundle.config = UMWELT_TRY(JsonText::parse(std::move(text)));
  bundle.root = UMWELT_TRY(root_of(bundle.path, bundle.config));
  return bundle;
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

bool has_listener(const JsonText& config, const std::string& path) {
  const auto kernel = config.find(config.root(), "linux");
  if (!kernel || *kernel == nullptr) return false;
  const auto seccomp = config.find(**kernel, "seccomp");
  if (!seccomp || *seccomp == nullptr) return false;
  const auto listener = config.find(**seccomp, "listenerPath");
  return listener && *listener != nullptr && config.string(**listener).value_or("") == path;
}

Result<std::string> add_to_config(const JsonText& config, const Additions& additions) {
  if (config.root().kind != JsonValue::Kind::kObject)
    return fail(EINVAL, "config.json is no JSON object");
  JsonText out = config;
  UMWELT_CHECK(add_hooks(out, additions));
  UMWELT_CHECK(set_listener(out, additions));
  return out.edited();
}

}  // namespace umwelt::oci
