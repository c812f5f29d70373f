// SPDX-License-Identifier: Apache-2.0
#include "launch/user.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>

#include "base/file.h"
#include "base/parse.h"

namespace umwelt::launch {
namespace {

constexpr std::size_t kMaxDatabaseBytes = 4U << 20;
constexpr std::size_t kMaxGroups = 1024;

// The highest id means "no change" to the kernel.
std::optional<std::uint32_t> parse_id(std::string_view text) {
  const auto id = parse_u64(text);
  if (!id || *id >= std::numeric_limits<std::uint32_t>::max()) return std::nullopt;
  return static_cast<std::uint32_t>(*id);
}

// Never a name: an image could give it to root.
bool is_number(std::string_view text) {
  return text.find_first_not_of("0123456789") == std::string_view::npos;
}

struct PasswdEntry {
  std::string_view name, home;
  uid_t uid = 0;
  gid_t gid = 0;
};

std::optional<PasswdEntry> find_passwd(std::string_view passwd, std::string_view name,
                                       std::optional<uid_t> uid) {
  while (auto line = next_line(passwd)) {
    std::array<std::string_view, 6> fields;
    for (std::string_view& field : fields) field = next_part(*line, ':');
    const auto line_uid = parse_id(fields[2]);
    const auto line_gid = parse_id(fields[3]);
    if (!line_uid || !line_gid) continue;
    if (uid ? *uid == *line_uid : fields[0] == name)
      return PasswdEntry{fields[0], fields[5], *line_uid, *line_gid};
  }
  return std::nullopt;
}

bool lists(std::string_view members, std::string_view name) {
  while (!members.empty())
    if (next_part(members, ',') == name) return true;
  return false;
}

Result<std::string> read_database(int root, const std::string& path) {
  // O_NONBLOCK: a fifo must not hold us.
  auto fd = open_in_root(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!fd) {
    if (fd.error().code == ENOENT || fd.error().code == ENOTDIR) return std::string();
    return fail(fd.error());
  }
  struct stat st {};
  if (::fstat(fd->get(), &st) != 0) return fail_errno("stat " + path);
  if (!S_ISREG(st.st_mode)) return fail(0, path + " of the root filesystem is not a plain file");
  if (static_cast<std::size_t>(st.st_size) > kMaxDatabaseBytes)
    return fail(EFBIG, path + " of the root filesystem");
  std::string buffer;
  return std::string(UMWELT_TRY(pread_all(fd->get(), buffer)));
}

}  // namespace

Result<User> resolve_user(std::string_view user, std::string_view passwd, std::string_view group) {
  std::string_view group_part = user;
  const std::string_view user_part = next_part(group_part, ':');
  const bool group_given = user.find(':') != std::string_view::npos;
  if ((user_part.empty() && !user.empty()) || (group_given && group_part.empty()))
    return fail(0, "--user " + std::string(user) + ": write it as USER or USER:GROUP");

  User result;
  const auto uid = user_part.empty() ? std::optional<std::uint32_t>(0) : parse_id(user_part);
  if (!uid && is_number(user_part))
    return fail(0, "--user " + std::string(user) + ": no such user id");
  const auto entry = find_passwd(passwd, user_part, uid);
  if (!entry && !uid)
    return fail(0, "--user " + std::string(user) + ": the container's /etc/passwd has no user " +
                       std::string(user_part));
  result.uid = entry ? entry->uid : *uid;
  result.gid = entry ? entry->gid : 0;
  if (entry && entry->home.starts_with('/')) result.home = entry->home;

  if (group_given) {
    auto gid = parse_id(group_part);
    if (!gid && is_number(group_part))
      return fail(0, "--user " + std::string(user) + ": no such group id");
    for (std::string_view rest = group; !gid;) {
      auto line = next_line(rest);
      if (!line) break;
      if (next_part(*line, ':') != group_part) continue;
      next_part(*line, ':');
      gid = parse_id(next_part(*line, ':'));
    }
    if (!gid)
      return fail(0, "--user " + std::string(user) + ": the container's /etc/group has no group " +
                         std::string(group_part));
    result.gid = *gid;
    return result;
  }
  if (!entry) return result;
  while (auto line = next_line(group)) {
    next_part(*line, ':');
    next_part(*line, ':');
    const auto gid = parse_id(next_part(*line, ':'));
    if (!gid || !lists(*line, entry->name) || result.groups.size() == kMaxGroups) continue;
    if (std::find(result.groups.begin(), result.groups.end(), *gid) == result.groups.end())
      result.groups.push_back(*gid);
  }
  return result;
}

Result<User> read_user(int root, std::string_view user) {
  const std::string passwd = UMWELT_TRY(read_database(root, "/etc/passwd"));
  const std::string group = UMWELT_TRY(read_database(root, "/etc/group"));
  return resolve_user(user, passwd, group);
}

}  // namespace umwelt::launch
