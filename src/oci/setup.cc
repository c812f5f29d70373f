// SPDX-License-Identifier: Apache-2.0
#include "oci/setup.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "base/parse.h"
#include "oci/json_text.h"

namespace umwelt::oci {
namespace {

constexpr const char* kRuntimeName = "umwelt";

Result<std::optional<std::string>> read_present(const std::string& path) {
  return read_optional_at(AT_FDCWD, path);
}

Result<void> add_edit(SetupPlan& plan, const std::string& path, const std::string& after) {
  auto before = UMWELT_TRY(read_present(path));
  if (before != after) plan.files.push_back({path, std::move(before), after});
  return {};
}

// The arguments of a hook, which gets nothing of the environment.
std::string hook_arguments(const SetupPaths& paths, const std::string& stage) {
  std::string out = "[" + json_quote(paths.program) + ", \"oci-hook\", ";
  if (!paths.runtime.empty()) out += "\"--runtime-dir\", " + json_quote(paths.runtime) + ", ";
  return out + json_quote(stage) + "]";
}

// A hook does not learn its stage: one file for each.
Result<void> add_hook_files(SetupPlan& plan, const std::string& directory,
                            const SetupPaths& paths) {
  for (const std::string stage : {"createRuntime", "poststop"})
    UMWELT_CHECK(add_edit(
        plan, directory + "/umwelt-" + stage + ".json",
        "{\n  \"version\": \"1.0.0\",\n  \"hook\": {\n    \"path\": " + json_quote(paths.program) +
            ",\n    \"args\": " + hook_arguments(paths, stage) +
            "\n  },\n  \"when\": { \"always\": true },\n  \"stages\": [" + json_quote(stage) +
            "]\n}\n"));
  return {};
}

// The default runtime that a daemon.json names, and its program; "runc" when it names none.
struct DefaultRuntime {
  std::string name, path;
};
Result<DefaultRuntime> default_runtime(const JsonText& json) {
  DefaultRuntime out{"runc", "runc"};
  const JsonValue* name = UMWELT_TRY(json.find(json.root(), "default-runtime"));
  if (name == nullptr) return out;
  out.name = UMWELT_TRY(json.string(*name));
  if (out.name == "runc" || out.name == kRuntimeName) return out;
  const JsonValue* runtimes = UMWELT_TRY(json.find(json.root(), "runtimes"));
  const JsonValue* entry =
      runtimes == nullptr ? nullptr : UMWELT_TRY(json.find(*runtimes, out.name));
  const JsonValue* path = entry == nullptr ? nullptr : UMWELT_TRY(json.find(*entry, "path"));
  if (path == nullptr)
    return fail(0, "its default-runtime " + out.name + " is no OCI runtime with a path");
  out.path = UMWELT_TRY(json.string(*path));
  return out;
}

Result<SetupPlan> plan_docker(const SetupPaths& paths) {
  const std::string path = paths.file.empty() ? paths.root + "/etc/docker/daemon.json" : paths.file;
  const auto before = UMWELT_TRY(read_present(path));
  const std::string text = before.value_or("{}\n");
  const auto json = JsonText::parse(text);
  if (!json) return fail(0, path + ": " + json.error().message());
  const auto standard = default_runtime(*json);
  if (!standard) return fail(0, path + ": " + standard.error().message());
  std::string program = paths.program;
  // Another default runtime (a GPU's) still comes after ours: the name of the link says which.
  if (standard->path != "runc" && standard->name != kRuntimeName)
    program = paths.state + "/runtimes/umwelt-" +
              std::filesystem::path(standard->path).filename().string();
  SetupPlan plan;
  if (standard->name != kRuntimeName) {
    const auto after = edit_docker_json(text, kRuntimeName, program);
    if (!after) return fail(0, path + ": " + after.error().message());
    UMWELT_CHECK(add_edit(plan, path, *after));
  }
  plan.next = {"systemctl reload docker   (or kill -HUP the dockerd)"};
  return plan;
}

Result<SetupPlan> plan_podman(const SetupPaths& paths) {
  SetupPlan plan;
  const std::string directory =
      paths.file.empty() ? paths.root + "/usr/share/containers/oci/hooks.d" : paths.file;
  UMWELT_CHECK(add_hook_files(plan, directory, paths));
  return plan;
}

Result<SetupPlan> plan_crio(const SetupPaths& paths) {
  SetupPlan plan;
  const std::string directory =
      paths.file.empty() ? paths.root + "/etc/containers/oci/hooks.d" : paths.file;
  UMWELT_CHECK(add_hook_files(plan, directory, paths));
  plan.next = {"systemctl restart crio"};
  return plan;
}

Result<SetupPlan> plan_containerd(const SetupPaths& paths) {
  const std::string path =
      paths.file.empty() ? paths.root + "/etc/containerd/config.toml" : paths.file;
  const auto before = UMWELT_TRY(read_present(path));
  const auto after = edit_containerd_toml(before.value_or(""), paths.program);
  if (!after) return fail(0, path + ": " + after.error().message());
  SetupPlan plan;
  UMWELT_CHECK(add_edit(plan, path, *after));
  // What does not come by CRI (ctr) runs the runc of the daemon's PATH.
  if (paths.file.empty())
    UMWELT_CHECK(
        add_edit(plan, paths.root + "/etc/systemd/system/containerd.service.d/umwelt.conf",
                 "[Service]\nEnvironment=PATH=" + paths.state +
                     "/runtimes:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"));
  plan.next = {"systemctl daemon-reload && systemctl restart containerd",
               "for ctr, where no systemd starts containerd: put " + paths.state +
                   "/runtimes first in its PATH"};
  return plan;
}

Result<SetupPlan> plan_lxc(const SetupPaths& paths) {
  SetupPlan plan;
  const std::string path = paths.file.empty()
                               ? paths.root + "/usr/share/lxc/config/common.conf.d/50-umwelt.conf"
                               : paths.file;
  UMWELT_CHECK(add_edit(plan, path, "lxc.hook.start-host = " + paths.program + " lxc-hook\n"));
  return plan;
}

Result<SetupPlan> plan_nspawn(const SetupPaths& paths) {
  SetupPlan plan;
  const std::string path =
      paths.file.empty() ? paths.root + "/etc/systemd/system/systemd-nspawn@.service.d/umwelt.conf"
                         : paths.file;
  UMWELT_CHECK(add_edit(plan, path, "[Service]\nExecStartPost=-" + paths.umwelt + " attach %i\n"));
  plan.next = {"systemctl daemon-reload",
               "machines that are started as systemd-nspawn(1) have no hook: umwelt attach PID"};
  return plan;
}

Result<SetupPlan> plan_cdi(const SetupPaths& paths) {
  SetupPlan plan;
  const std::string path = paths.file.empty() ? paths.root + "/etc/cdi/umwelt.json" : paths.file;
  std::string hooks;
  for (const std::string stage : {"createRuntime", "poststop"})
    hooks += (hooks.empty() ? "" : ",") + ("\n            { \"hookName\": \"" + stage +
                                           "\", \"path\": " + json_quote(paths.program) +
                                           ", \"args\": " + hook_arguments(paths, stage) + " }");
  UMWELT_CHECK(add_edit(plan, path,
                        "{\n  \"cdiVersion\": \"0.3.0\",\n  \"kind\": \"umwelt.dev/view\",\n"
                        "  \"devices\": [\n    {\n      \"name\": \"default\",\n"
                        "      \"containerEdits\": {\n        \"hooks\": [" +
                            hooks + "\n        ]\n      }\n    }\n  ]\n}\n"));
  plan.next = {"then per container: --device umwelt.dev/view=default"};
  return plan;
}

struct Runtime {
  const char* name;
  Result<SetupPlan> (*plan)(const SetupPaths& paths);
};
constexpr Runtime kRuntimes[] = {
    {"docker", plan_docker}, {"podman", plan_podman}, {"containerd", plan_containerd},
    {"crio", plan_crio},     {"lxc", plan_lxc},       {"nspawn", plan_nspawn},
    {"cdi", plan_cdi}};

}  // namespace

std::vector<std::string> setup_runtimes() {
  std::vector<std::string> names;
  for (const Runtime& runtime : kRuntimes) names.emplace_back(runtime.name);
  return names;
}

Result<SetupPlan> plan_setup(const std::string& runtime, const SetupPaths& paths) {
  for (const Runtime& known : kRuntimes)
    if (runtime == known.name) return known.plan(paths);
  return fail(EINVAL, "unknown runtime " + runtime);
}

Result<std::string> edit_docker_json(const std::string& text, const std::string& name,
                                     const std::string& program) {
  JsonText json = UMWELT_TRY(JsonText::parse(text));
  if (json.root().kind != JsonValue::Kind::kObject) return fail(0, "no JSON object");
  const std::string entry = "{\"path\": " + json_quote(program) + "}";
  const JsonValue* runtimes = UMWELT_TRY(json.find(json.root(), "runtimes"));
  if (runtimes != nullptr && runtimes->kind == JsonValue::Kind::kObject) {
    UMWELT_TRY(json.find(*runtimes, name));
    json.set_member(*runtimes, name, entry);
  } else {
    json.set_member(json.root(), "runtimes", "{" + json_quote(name) + ": " + entry + "}");
  }
  json.set_member(json.root(), "default-runtime", json_quote(name));
  return json.edited();
}

}  // namespace umwelt::oci
