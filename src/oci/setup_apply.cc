// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/parse.h"
#include "oci/rewrite.h"
#include "oci/setup.h"
#include "oci/wrapper.h"

namespace umwelt::oci {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// <state>/setup/RUNTIME/: manifest.json, N.before (absent: there was no file), N.after
std::string kept_in(const std::string& state, const std::string& runtime) {
  return state + "/setup/" + runtime;
}

// Where a symbolic link leads: it stays one.
std::string real_file(const std::string& path) {
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  return error ? path : real.string();
}

Result<void> make_link(const std::string& link, const std::string& target) {
  std::error_code error;
  if (fs::read_symlink(link, error) == target) return {};  // containers that run may need it now
  (void)::unlink(link.c_str());
  if (::symlink(target.c_str(), link.c_str()) != 0) return fail_errno("link " + link);
  return {};
}

// runtimes/umwelt-NAME is our program in the place of the runtime NAME, and "umwelt-NAME.real"
// beside it leads there (find_runtime()).
Result<void> make_links(const SetupPaths& paths, const SetupPlan& plan) {
  const std::string directory = paths.state + "/runtimes/";
  UMWELT_CHECK(make_directories(paths.state + "/runtimes"));
  for (const char* name : {"runc", "crun"})
    UMWELT_CHECK(make_link(directory + name, paths.program));
  if (plan.real_runtime.empty()) return {};
  const fs::path real = plan.real_runtime;
  const std::string link = directory + "umwelt-" + real.filename().string();
  UMWELT_CHECK(make_link(link, paths.program));
  if (real.is_absolute()) return make_link(link + kRealRuntime, plan.real_runtime);
  (void)::unlink((link + kRealRuntime).c_str());
  return {};
}

// Whether a file has us in it; also where we were another program's path.
bool names_us(const std::string& text, const SetupPaths& paths) {
  for (const std::string& word :
       {fs::path(paths.program).filename().string(), paths.umwelt, paths.state + "/runtimes"})
    if (text.find(word) != text.npos) return true;
  return false;
}

struct Kept {
  std::vector<std::string> files;
  std::string file;  // SetupPaths::file of the last setup
};

Result<Kept> read_manifest(const std::string& directory) {
  const auto text = read_file(directory + "/manifest.json");
  if (!text) return fail(text.error());
  const json value = json::parse(*text, nullptr, false);
  if (!value.is_object() || !value.contains("files") || !value["files"].is_array())
    return fail(EINVAL, directory + "/manifest.json");
  Kept kept;
  for (const json& file : value["files"]) {
    if (!file.is_string()) return fail(EINVAL, directory + "/manifest.json");
    kept.files.push_back(file.get<std::string>());
  }
  if (const auto file = value.find("file"); file != value.end() && file->is_string())
    kept.file = file->get<std::string>();
  return kept;
}

Result<void> write_manifest(const std::string& directory, const Kept& kept) {
  return replace_file(directory + "/manifest.json",
                      json{{"files", kept.files}, {"file", kept.file}}.dump(2) + "\n");
}

// What undo puts back: the file before the first setup or, when somebody took that one out by hand,
// before this one.
Result<void> keep_before(const FileEdit& file, const std::string& copy, const SetupPaths& paths,
                         bool first) {
  if (!first) {
    if (file.before == UMWELT_TRY(read_optional_at(AT_FDCWD, copy + ".after"))) return {};
    // An undo to this would leave it in.
    if (file.before && names_us(*file.before, paths))
      return fail(0,
                  file.path + " was changed since the setup: take out what names umwelt by hand");
  }
  if (file.before) return replace_file(copy + ".before", *file.before, 0600);
  if (::unlink((copy + ".before").c_str()) != 0 && errno != ENOENT)
    return fail_errno("remove " + copy + ".before");
  return {};
}

Result<void> write_edit(const FileEdit& file) {
  UMWELT_CHECK(make_directories(fs::path(real_file(file.path)).parent_path().string()));
  return rewrite_file(file.path, file.after);
}

}  // namespace

Result<void> apply_setup(const std::string& runtime, const SetupPlan& plan,
                         const SetupPaths& paths) {
  const std::string directory = kept_in(paths.state, runtime);
  UMWELT_CHECK(make_directories(directory, 0700));
  Kept kept = read_manifest(directory).value_or(Kept{});
  kept.file = paths.file;
  UMWELT_CHECK(make_links(paths, plan));
  for (const FileEdit& file : plan.files) {
    if (UMWELT_TRY(read_optional_at(AT_FDCWD, file.path)) != file.before)
      return fail(0, file.path + " changed in the meantime: do it again");
    const Kept former = kept;
    auto known = std::find(kept.files.begin(), kept.files.end(), file.path);
    const std::string copy = directory + "/" + std::to_string(known - kept.files.begin());
    const bool first = known == kept.files.end();
    UMWELT_CHECK(keep_before(file, copy, paths, first));
    // Before the change: what can't be undone is not done. And back where that fails.
    const auto former_after = UMWELT_TRY(read_optional_at(AT_FDCWD, copy + ".after"));
    UMWELT_CHECK(replace_file(copy + ".after", file.after, 0600));
    if (first) kept.files.push_back(file.path);
    UMWELT_CHECK(write_manifest(directory, kept));
    if (const auto written = write_edit(file); !written) {
      std::error_code error;
      if (former_after) (void)replace_file(copy + ".after", *former_after, 0600);
      if (former.files.empty())
        fs::remove_all(directory, error);
      else
        (void)write_manifest(directory, former);
      return written;
    }
  }
  return {};
}

Result<std::vector<UndoStep>> plan_undo(const std::string& runtime, const SetupPaths& paths) {
  const std::string directory = kept_in(paths.state, runtime);
  const auto kept = read_manifest(directory);
  if (!kept && kept.error().code == ENOENT) return fail(0, runtime + " is not set up");
  if (!kept) return fail(kept.error());
  std::vector<UndoStep> steps;
  for (std::size_t i = 0; i < kept->files.size(); ++i) {
    const std::string& path = kept->files[i];
    const std::string copy = directory + "/" + std::to_string(i);
    const auto now = UMWELT_TRY(read_optional_at(AT_FDCWD, path));
    const auto before = UMWELT_TRY(read_optional_at(AT_FDCWD, copy + ".before"));
    if (now == before) continue;
    const bool changed = now != UMWELT_TRY(read_file(copy + ".after"));
    if (changed && (!now || !names_us(*now, paths))) continue;  // taken out by hand
    if (changed && runtime == "docker") {
      const auto then = restore_docker_json(*now, before && !trim(*before).empty() ? *before : "{}",
                                            kRuntimeName);
      if (then && !names_us(*then, paths)) {
        steps.push_back({path, *now, *then});
        continue;
      }
    }
    if (changed)
      return fail(0, path + " was changed since the setup: take out what names umwelt by hand; " +
                         (before ? copy + ".before is what it was" : "setup had made it"));
    steps.push_back({path, *now, before});
  }
  return steps;
}

Result<void> apply_undo(const std::string& runtime, const std::vector<UndoStep>& steps,
                        const SetupPaths& paths) {
  for (const UndoStep& step : steps) {
    if (step.then)
      UMWELT_CHECK(rewrite_file(step.path, *step.then));
    else if (::unlink(step.path.c_str()) != 0 && errno != ENOENT)
      return fail_errno("remove " + step.path);
  }
  std::error_code error;
  fs::remove_all(kept_in(paths.state, runtime), error);
  if (error) return fail(error.value(), "remove " + kept_in(paths.state, runtime));
  fs::remove(paths.state + "/setup", error);  // as the last one
  return {};
}

bool is_set_up(const std::string& runtime, SetupPaths paths) {
  paths.file = read_manifest(kept_in(paths.state, runtime)).value_or(Kept{}).file;
  const auto plan = plan_setup(runtime, paths);
  return plan && plan->files.empty();
}

}  // namespace umwelt::oci
