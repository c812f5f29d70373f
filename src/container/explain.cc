// SPDX-License-Identifier: Apache-2.0
#include "container/explain.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/parse.h"
#include "cgroup/parse.h"
#include "view/explain.h"
#include "view/sys_files.h"

namespace umwelt::container {
namespace {

using nlohmann::json;

json from_cgroup(const cgroup::KernelValue& value) {
  json out = {{"file", value.file}, {"value", value.value}};
  if (!value.line.empty()) out["line"] = value.line;
  return out;
}

// Lines of /proc/meminfo have "KEY:", others the word alone.
std::optional<json> from_host(const view::HostLine& wanted) {
  const auto text = read_file(wanted.file);
  if (!text) return std::nullopt;
  json out = {{"file", wanted.file}};
  std::string_view rest = *text;
  if (wanted.key.empty()) {
    // A file of many lines stands for itself.
    const auto first = next_line(rest);
    if (first && rest.empty()) out["value"] = *first;
    return out;
  }
  while (auto line = next_line(rest)) {
    if (next_word(*line) != wanted.key) continue;
    out["line"] = wanted.key;
    out["value"] = trim(*line);
    return out;
  }
  return out;
}

json explain_one(Container& container, const view::LineSource& source, std::string_view text) {
  json from = json::array();
  // v1 has a limit on swap as two, and one of them may be named already.
  const auto is_named = [&from](const json& origin) {
    return std::any_of(from.begin(), from.end(), [&](const json& named) {
      return named["file"] == origin["file"] && named.value("line", "") == origin.value("line", "");
    });
  };
  for (const std::string& name : source.cgroup)
    for (const cgroup::KernelValue& value : container.origin_of(name))
      if (json origin = from_cgroup(value); !is_named(origin)) from.push_back(std::move(origin));
  for (const view::HostLine& line : source.host)
    if (auto found = from_host(line)) from.push_back(*std::move(found));
  // v1 has no such count, or nobody set the limit.
  const bool nothing = from.empty() && source.note.empty();
  return {{"text", text},
          {"from", std::move(from)},
          {"note", nothing ? "no file of this kernel has it" : source.note}};
}

// A path of /sys with a CPU or a node in it, taken apart.
struct SysPath {
  std::string host_path;  // with the physical number
  view::SysFile::Subject subject;
};

constexpr std::string_view kCpu = "sys/devices/system/cpu/cpu";
constexpr std::string_view kNode = "sys/devices/system/node/node";

std::optional<unsigned> number_after(std::string_view path, std::string_view stem) {
  if (!path.starts_with(stem)) return std::nullopt;
  path.remove_prefix(stem.size());
  const auto number = parse_u64(path.substr(0, path.find('/')));
  return number && *number <= CpuSet::kMaxId ? std::optional(static_cast<unsigned>(*number))
                                             : std::nullopt;
}

Result<SysPath> take_apart(const std::string& path, const view::Resources& r) {
  SysPath found{path, {}};
  if (const auto cpu = number_after(path, kCpu)) {
    found.subject.cpu = r.cpus.by_id(*cpu);
    if (found.subject.cpu == nullptr) return fail(ENOENT, "/" + path);
    const std::size_t slash = path.find('/', kCpu.size());
    if (slash == std::string::npos) return fail(EISDIR, "/" + path);
    found.host_path =
        std::string(kCpu) + std::to_string(found.subject.cpu->physical) + path.substr(slash);
  }
  if (const auto node = number_after(path, kNode)) {
    found.subject.node = *node;
    if (!r.nodes.online.test(*node)) return fail(ENOENT, "/" + path);
  }
  for (const auto& part : std::filesystem::path(path))
    if (const auto bytes = cgroup::parse_huge_page_directory(part.string()))
      found.subject.page_bytes = *bytes;
  return found;
}

Result<json> explain_sys(Container& container, const std::string& path) {
  const view::SysFile* file = view::find_sys_file(path);
  const view::Resources r = UMWELT_TRY(container.resources(file != nullptr ? file->needs : 0));
  const SysPath parts = UMWELT_TRY(take_apart(path, r));
  const auto host_text = read_file("/" + parts.host_path);
  if (!host_text) return fail(host_text.error());
  const std::string text =
      file != nullptr ? file->render(r, parts.subject, *host_text) : *host_text;
  view::LineSource source;
  source.host.push_back({"/" + parts.host_path, ""});
  if (file == nullptr) {
    source.note = "the host's file";
  } else {
    source.cgroup = {"cpuset.cpus.effective", "cpu.max"};
    if (parts.subject.cpu == nullptr) source.cgroup.emplace_back("cpuset.mems.effective");
    if ((file->needs & view::kNeedMemory) != 0)
      source.cgroup.insert(source.cgroup.end(), {"memory.max", "limit:memory.current"});
    source.note = "what of the host's file is the container's";
  }
  json lines = json::array();
  std::string_view rest = text;
  while (const auto line = next_line(rest)) lines.push_back(explain_one(container, source, *line));
  return lines;
}

bool is_directory_of_sys(const std::string& path) {
  return path.starts_with("sys/devices/system/cpu/") ||
         path.starts_with("sys/devices/system/node/") ||
         path.starts_with("sys/kernel/mm/hugepages/");
}

}  // namespace

Result<json> explain(Container& container, const std::string& path) {
  const std::string normal = std::filesystem::path(path).lexically_normal().string();
  if (!normal.starts_with('/')) return fail(EINVAL, "the path must be absolute: " + path);
  const std::string relative = normal.substr(1);
  const view::File* file = view::find_file(relative);
  if (file == nullptr && is_directory_of_sys(relative)) return explain_sys(container, relative);
  if (file == nullptr || (!relative.starts_with("run/") && !std::filesystem::exists(normal)))
    return fail(ENOENT, normal + " is not served");
  const view::Resources r = UMWELT_TRY(container.resources(file->needs));
  const std::string text = file->render(r);
  json lines = json::array();
  std::string_view rest = text;
  while (const auto line = next_line(rest))
    lines.push_back(explain_one(container, view::explain_line(*file, r, *line), *line));
  return lines;
}

}  // namespace umwelt::container
