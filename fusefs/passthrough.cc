// SPDX-License-Identifier: Apache-2.0
#include "fusefs/passthrough.h"

#include <algorithm>
#include <climits>
#include <map>
#include <span>

#include "base/file.h"
#include "fusefs/node.h"

namespace umwelt::fusefs {
namespace {

constexpr int kMaxDepth = 8;
constexpr std::size_t kMaxItems = 1U << 16;
// When a CPU was too hot: by that one container can watch what others do, so runtimes hide it from
// all (GHSA-6fw5-f8r9-fgfm).
constexpr std::string_view kHiddenOfCpu = "thermal_throttle";

using Found = std::map<std::string, mode_t>;

// Which names of a directory are left out, and which of those are collected.
struct Numbered {
  std::string_view stem;                // "cpu": cpu0, cpu1 ...
  std::vector<std::string>* collected;  // null: left out
};

// Adds what is below `dir` to `found` under `prefix`, but for names of `numbered`, which holds at
// the top only. An item that vanishes during the walk is passed over.
Result<void> walk(int dir, const std::string& prefix, int depth, std::span<const Numbered> numbered,
                  Found& found) {
  for (const std::string& name : UMWELT_TRY(read_names_at(dir, "."))) {
    const auto kind = std::find_if(numbered.begin(), numbered.end(), [&](const Numbered& one) {
      return parse_numbered(name, one.stem).has_value();
    });
    if (kind != numbered.end()) {
      if (kind->collected != nullptr) kind->collected->push_back(name);
      continue;
    }
    const std::string path = prefix + name;
    auto [item, is_new] = found.try_emplace(path, 0);
    if (is_new) {
      struct stat status {};
      if (::fstatat(dir, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
        found.erase(item);
        continue;
      }
      item->second = status.st_mode;
      if (found.size() > kMaxItems) return fail(E2BIG, "scan /sys");
    }
    if (!S_ISDIR(item->second) || depth == kMaxDepth) continue;
    auto child = open_at(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW);
    if (!child) continue;
    UMWELT_CHECK(walk(child->get(), path + "/", depth + 1, {}, found));
  }
  return {};
}

// A directory with numbered ones in it: what is beside those goes to `common`, what is in any of
// them to `per_one`. Nothing where the host has no such directory.
Result<void> walk_numbered(int root, const std::string& path, std::string_view stem,
                           std::span<const Numbered> left_out, Found& common, Found& per_one) {
  const auto top = open_at(root, path, O_PATH | O_DIRECTORY);
  if (!top) {
    if (top.error().code == ENOENT) return {};
    return fail(top.error());
  }
  std::vector<std::string> names;
  const Numbered numbered[] = {{stem, &names}};
  UMWELT_CHECK(walk(top->get(), path + "/", 0, numbered, common));
  for (const std::string& name : names) {
    auto dir = open_at(top->get(), name, O_PATH | O_DIRECTORY | O_NOFOLLOW);
    if (!dir) continue;
    UMWELT_CHECK(walk(dir->get(), "", 0, left_out, per_one));
  }
  return {};
}

std::vector<HostTree::Item> items(const Found& found) {
  std::vector<HostTree::Item> result;
  result.reserve(found.size());
  for (const auto& [path, mode] : found) result.push_back({path, mode});
  return result;
}

}  // namespace

Result<HostTree> HostTree::open(const std::string& root) {
  return HostTree(UMWELT_TRY(open_at(AT_FDCWD, root, O_PATH | O_DIRECTORY)));
}

Result<HostTree::Items> HostTree::scan() const {
  Found common, per_cpu, per_node, none;
  UMWELT_CHECK(walk_numbered(root_.get(), kCpuDirectory, "cpu", {}, common, per_cpu));
  std::erase_if(per_cpu, [](const auto& item) {
    return std::string_view(item.first).substr(0, item.first.find('/')) == kHiddenOfCpu;
  });
  const Numbered left_out[] = {{"cpu", nullptr}, {"memory", nullptr}};
  UMWELT_CHECK(walk_numbered(root_.get(), kNodeDirectory, "node", left_out, common, per_node));
  UMWELT_CHECK(walk_numbered(root_.get(), kHugepagesDirectory, "", {}, common, none));
  return Items{items(common), items(per_cpu), items(per_node)};
}

Result<std::string> HostTree::read_text(const std::string& path) const {
  const UniqueFd fd = UMWELT_TRY(open_in_root(root_.get(), path, O_RDONLY | O_NOFOLLOW));
  std::string buffer;
  const std::size_t size = UMWELT_TRY(pread_record(fd.get(), buffer)).size();
  buffer.resize(size);
  return buffer;
}

Result<std::string> HostTree::read_link(const std::string& path) const {
  char target[PATH_MAX];
  const ssize_t n = ::readlinkat(root_.get(), path.c_str(), target, sizeof(target));
  if (n < 0) return fail_errno("readlink " + path);
  return std::string(target, static_cast<std::size_t>(n));
}

bool HostTree::exists(const std::string& path) const {
  struct stat status {};
  return ::fstatat(root_.get(), path.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
}

}  // namespace umwelt::fusefs
