// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "oci/setup.h"

namespace umwelt::oci {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// <state>/setup/RUNTIME/: manifest.json, N.before (absent: there was no file), N.after
std::string kept_in(const std::string& state, const std::string& runtime) {
  return state + "/setup/" + runtime;
}

mode_t mode_of(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? status.st_mode & 07777 : 0644;
}

// Where a symbolic link leads: it stays one.
std::string real_file(const std::string& path) {
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  return error ? path : real.string();
}

Result<void> make_links(const SetupPaths& paths, const SetupPlan& plan) {
  const std::string directory = paths.state + "/runtimes";
  UMWELT_CHECK(make_directories(directory));
  std::vector<std::string> names = {"runc", "crun"};
  const std::string prefix = directory + "/umwelt-";
  for (const FileEdit& file : plan.files)
    if (const std::size_t at = file.after.find(prefix); at != std::string::npos) {
      const std::size_t begin = at + directory.size() + 1;
      names.push_back(file.after.substr(begin, file.after.find('"', begin) - begin));
    }
  for (const std::string& name : names) {
    const std::string link = directory + "/" + name;
    (void)::unlink(link.c_str());
    if (::symlink(paths.program.c_str(), link.c_str()) != 0) return fail_errno("link " + link);
  }
  return {};
}

struct Kept {
  std::vector<std::string> files;
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
  return kept;
}

Result<void> write_manifest(const std::string& directory, const Kept& kept) {
  return replace_file(directory + "/manifest.json", json{{"files", kept.files}}.dump(2) + "\n");
}

// What undo puts back: the file before the first setup or, when somebody took that one out by hand,
// before this one.
Result<void> keep_before(const FileEdit& file, const std::string& copy, const std::string& program,
                         bool first) {
  if (!first) {
    if (file.before == UMWELT_TRY(read_optional_at(AT_FDCWD, copy + ".after"))) return {};
    // An undo to this would leave it in.
    if (file.before && file.before->find(program) != std::string::npos)
      return fail(0,
                  file.path + " was changed since the setup: take out what names umwelt by hand");
  }
  if (file.before) return replace_file(copy + ".before", *file.before, 0600);
  if (::unlink((copy + ".before").c_str()) != 0 && errno != ENOENT)
    return fail_errno("remove " + copy + ".before");
  return {};
}

}  // namespace

Result<void> apply_setup(const std::string& runtime, const SetupPlan& plan,
                         const SetupPaths& paths) {
  const std::string directory = kept_in(paths.state, runtime);
  UMWELT_CHECK(make_directories(directory, 0700));
  Kept kept = read_manifest(directory).value_or(Kept{});
  UMWELT_CHECK(make_links(paths, plan));
  for (const FileEdit& file : plan.files) {
    if (UMWELT_TRY(read_optional_at(AT_FDCWD, file.path)) != file.before)
      return fail(0, file.path + " changed in the meantime: do it again");
    auto known = std::find(kept.files.begin(), kept.files.end(), file.path);
    const std::string copy = directory + "/" + std::to_string(known - kept.files.begin());
    const bool first = known == kept.files.end();
    UMWELT_CHECK(keep_before(file, copy, paths.program, first));
    UMWELT_CHECK(replace_file(copy + ".after", file.after, 0600));
    if (first) kept.files.push_back(file.path);
    // Before the change: what can't be undone is not done.
    UMWELT_CHECK(write_manifest(directory, kept));
    const std::string real = real_file(file.path);
    UMWELT_CHECK(make_directories(fs::path(real).parent_path().string()));
    UMWELT_CHECK(replace_file(real, file.after, mode_of(real)));
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
    if (now != UMWELT_TRY(read_file(copy + ".after")))
      return fail(0, path + " was changed since the setup: take out what names umwelt by hand; " +
                         (before ? copy + ".before is what it was" : "setup had made it"));
    steps.push_back({path, *now, before});
  }
  return steps;
}

Result<void> apply_undo(const std::string& runtime, const std::vector<UndoStep>& steps,
                        const SetupPaths& paths) {
  for (const UndoStep& step : steps) {
    const std::string real = real_file(step.path);
    if (step.then)
      UMWELT_CHECK(replace_file(real, *step.then, mode_of(real)));
    else if (::unlink(step.path.c_str()) != 0 && errno != ENOENT)
      return fail_errno("remove " + step.path);
  }
  std::error_code error;
  fs::remove_all(kept_in(paths.state, runtime), error);
  if (error) return fail(error.value(), "remove " + kept_in(paths.state, runtime));
  // The links are for all runtimes; containers that run may be stopped through them.
  if (fs::remove(paths.state + "/setup", error); !error)
    fs::remove_all(paths.state + "/runtimes", error);
  return {};
}

std::vector<std::string> runtimes_set_up(const std::string& state) {
  std::vector<std::string> out;
  for (const std::string& runtime : setup_runtimes())
    if (::access((kept_in(state, runtime) + "/manifest.json").c_str(), F_OK) == 0)
      out.push_back(runtime);
  return out;
}

}  // namespace umwelt::oci
