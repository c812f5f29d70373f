// SPDX-License-Identifier: Apache-2.0
#include "oci/setup.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "base/parse.h"
#include "oci/json_text.h"

namespace umwelt::oci {
namespace {

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

std::string runtime_option(const SetupPaths& paths) {
  return paths.runtime.empty() ? "" : " --runtime-dir " + paths.runtime;
}

// The wrapper has the runtime's own arguments, and so nobody can name the daemon's folder there.
void add_environment_step(SetupPlan& plan, const SetupPaths& paths, const std::string& daemon) {
  if (!paths.runtime.empty())
    plan.next.push_back("put UMWELT_RUNTIME_DIR=" + paths.runtime + " into the environment of " +
                        daemon + ", or umweltd is looked for in the usual folder");
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

// The default runtime that a daemon.json names, its program and, as JSON, its runtimeArgs.
struct DefaultRuntime {
  std::string name, path, arguments;
};
Result<DefaultRuntime> default_runtime(const JsonText& json) {
  const JsonValue* name = UMWELT_TRY(json.find(json.root(), "default-runtime"));
  DefaultRuntime out{"runc", "runc", ""};
  if (name != nullptr) out.name = UMWELT_TRY(json.string(*name));
  // The second is docker's own word for the first.
  if (out.name == "runc" || out.name == "io.containerd.runc.v2") return out;
  out.path.clear();
  const JsonValue* runtimes = UMWELT_TRY(json.find(json.root(), "runtimes"));
  const JsonValue* entry =
      runtimes == nullptr ? nullptr : UMWELT_TRY(json.find(*runtimes, out.name));
  const JsonValue* path = entry == nullptr ? nullptr : UMWELT_TRY(json.find(*entry, "path"));
  if (path == nullptr && out.name == kRuntimeName) return out;
  if (path == nullptr)
    return fail(0, "its default-runtime " + out.name + " is no OCI runtime with a path");
  out.path = UMWELT_TRY(json.string(*path));
  if (const JsonValue* arguments = UMWELT_TRY(json.find(*entry, "runtimeArgs")))
    out.arguments = json.text(*arguments);
  return out;
}

// What runs in the place of `current`, which comes after ours: the name of a link says which.
std::string place_before(const std::string& current, const SetupPaths& paths, SetupPlan& plan) {
  const std::string links = paths.state + "/runtimes/umwelt-";
  if (current.starts_with(links)) return current;
  const std::string name = std::filesystem::path(current).filename().string();
  if (current.empty() || current == "runc" ||
      name == std::filesystem::path(paths.program).filename())
    return paths.program;
  plan.real_runtime = current;
  return links + name;
}

Result<SetupPlan> plan_docker(const SetupPaths& paths) {
  const std::string path = paths.file.empty() ? paths.root + "/etc/docker/daemon.json" : paths.file;
  const auto before = UMWELT_TRY(read_present(path));
  // Newer dockers take an empty file for one without settings.
  const std::string text = before && !trim(*before).empty() ? *before : "{}\n";
  const auto json = JsonText::parse(text);
  if (!json) return fail(0, path + ": " + json.error().message());
  auto standard = default_runtime(*json);
  if (!standard) return fail(0, path + ": " + standard.error().message());
  SetupPlan plan;
  plan.reload = "systemctl reload docker   (or kill -HUP the dockerd)";
  std::string program = paths.program;
  if (standard->name == kRuntimeName) {
    if (standard->path == program || standard->path.starts_with(paths.state + "/runtimes/umwelt-"))
      return plan;
    standard->arguments.clear();  // of another program
  } else {
    program = place_before(standard->path, paths, plan);  // a GPU's
  }
  const auto after = edit_docker_json(text, kRuntimeName, program, standard->arguments);
  if (!after) return fail(0, path + ": " + after.error().message());
  UMWELT_CHECK(add_edit(plan, path, *after));
  add_environment_step(plan, paths, "dockerd and containerd");
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
      paths.file.empty() ? paths.root + "/usr/share/containers/oci/hooks.d" : paths.file;
  UMWELT_CHECK(add_hook_files(plan, directory, paths));
  plan.reload = "systemctl restart crio";
  return plan;
}

Result<SetupPlan> plan_containerd(const SetupPaths& paths) {
  const std::string path =
      paths.file.empty() ? paths.root + "/etc/containerd/config.toml" : paths.file;
  const std::string text = UMWELT_TRY(read_present(path)).value_or("");
  const auto current = find_containerd_program(text);
  if (!current) return fail(0, path + ": " + current.error().message());
  SetupPlan plan;
  const auto after = edit_containerd_toml(text, place_before(*current, paths, plan));
  if (!after) return fail(0, path + ": " + after.error().message());
  UMWELT_CHECK(add_edit(plan, path, *after));
  // What does not come by CRI (ctr) runs the runc of the daemon's PATH.
  if (paths.file.empty())
    UMWELT_CHECK(
        add_edit(plan, paths.root + "/etc/systemd/system/containerd.service.d/umwelt.conf",
                 "[Service]\nEnvironment=PATH=" + paths.state +
                     "/runtimes:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"));
  plan.reload = "systemctl daemon-reload && systemctl restart containerd";
  plan.next = {"for ctr, where no systemd starts containerd: put " + paths.state +
               "/runtimes first in its PATH"};
  add_environment_step(plan, paths, "containerd");
  return plan;
}

Result<SetupPlan> plan_lxc(const SetupPaths& paths) {
  SetupPlan plan;
  const std::string path = paths.file.empty()
                               ? paths.root + "/usr/share/lxc/config/common.conf.d/50-umwelt.conf"
                               : paths.file;
  const std::string command = paths.program + " lxc-hook" + runtime_option(paths) + "\n";
  UMWELT_CHECK(
      add_edit(plan, path, "lxc.hook.start-host = " + command + "lxc.hook.post-stop = " + command));
  return plan;
}

Result<SetupPlan> plan_nspawn(const SetupPaths& paths) {
  SetupPlan plan;
  const std::string path =
      paths.file.empty() ? paths.root + "/etc/systemd/system/systemd-nspawn@.service.d/umwelt.conf"
                         : paths.file;
  UMWELT_CHECK(add_edit(
      plan, path,
      "[Service]\nExecStartPost=-" + paths.umwelt + runtime_option(paths) + " attach %i\n"));
  plan.reload = "systemctl daemon-reload";
  plan.next = {"machines that are started as systemd-nspawn(1) have no hook: umwelt attach PID"};
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

Result<std::string> beside_this_program(const char* name) {
  const std::string path = program_path();
  if (path.empty()) return fail(0, "find this program: there is no /proc");
  const std::string beside = path.substr(0, path.rfind('/') + 1) + name;
  if (::access(beside.c_str(), X_OK) != 0) return fail_errno(beside);
  return beside;
}

}  // namespace

Result<SetupPaths> own_setup_paths(const container::Directories& directories) {
  SetupPaths paths;
  paths.program = UMWELT_TRY(beside_this_program("umwelt-runtime"));
  paths.umwelt = UMWELT_TRY(beside_this_program("umwelt"));
  paths.state = directories.state;
  if (directories.runtime != container::Directories{}.runtime) paths.runtime = directories.runtime;
  return paths;
}

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
                                     const std::string& program, const std::string& arguments) {
  JsonText json = UMWELT_TRY(JsonText::parse(text));
  if (json.root().kind != JsonValue::Kind::kObject) return fail(0, "no JSON object");
  const std::string entry = "{\"path\": " + json_quote(program) +
                            (arguments.empty() ? "" : ", \"runtimeArgs\": " + arguments) + "}";
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

Result<std::string> restore_docker_json(const std::string& text, const std::string& before,
                                        const std::string& name) {
  const JsonText former = UMWELT_TRY(JsonText::parse(before));
  const JsonValue* runtimes = UMWELT_TRY(former.find(former.root(), "runtimes"));
  const JsonValue* entry = runtimes == nullptr ? nullptr : UMWELT_TRY(former.find(*runtimes, name));
  const JsonValue* standard = UMWELT_TRY(former.find(former.root(), "default-runtime"));
  JsonText json = UMWELT_TRY(JsonText::parse(text));
  const JsonValue* ours = UMWELT_TRY(json.find(json.root(), "default-runtime"));
  if (ours != nullptr && json.text(*ours) == json_quote(name)) {
    if (standard != nullptr)
      json.replace(*ours, former.text(*standard));
    else
      json.remove_member(json.root(), "default-runtime");
    json = UMWELT_TRY(JsonText::parse(json.edited()));
  }
  const JsonValue* known = UMWELT_TRY(json.find(json.root(), "runtimes"));
  if (known == nullptr || UMWELT_TRY(json.find(*known, name)) == nullptr) return json.edited();
  const bool had_runtimes = runtimes != nullptr && runtimes->kind == JsonValue::Kind::kObject;
  if (entry != nullptr)
    json.set_member(*known, name, former.text(*entry));
  else if (had_runtimes || known->members.size() > 1)
    json.remove_member(*known, name);
  else if (runtimes != nullptr)
    json.replace(*known, former.text(*runtimes));
  else
    json.remove_member(json.root(), "runtimes");
  return json.edited();
}

}  // namespace umwelt::oci
