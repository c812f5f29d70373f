// SPDX-License-Identifier: Apache-2.0
#include "launch/name_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/file.h"
#include "launch/mounts.h"

namespace umwelt::launch {
namespace {

constexpr const char* kLocalhost = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n";

struct NameFile {
  const char* name;
  std::optional<std::string> text;  // nullopt: what the root filesystem has stays
};

// nullopt for what can't be read: a name that isn't found is no reason not to start.
std::optional<std::string> host_file(const Spec& spec, const char* path, const char* other) {
  if (spec.network == Network::kHost) {
    auto text = read_file(path);
    if (text && !text->empty()) return *std::move(text);
    if (!text && text.error().code != ENOENT) return std::nullopt;
  }
  return other == nullptr ? std::nullopt : std::optional<std::string>(other);
}

NameFile hosts(const Spec& spec) {
  auto text = host_file(spec, "/etc/hosts", kLocalhost);
  if (text) {
    if (text->back() != '\n') *text += '\n';
    *text += "127.0.1.1\t" + spec.hostname + "\n";
  }
  return {"hosts", std::move(text)};
}

// Of the root filesystem, also a symbolic link itself; nullopt where there is no place for it.
Result<std::optional<UniqueFd>> open_place(int root, const std::string& path, bool own) {
  auto place = open_plain(root, path, O_PATH | O_NOFOLLOW);
  if (!place && place.error().code == ENOENT && own)
    place = open_target(root, path, TargetKind::kFile);
  struct stat status {};
  if (place && ::fstat(place->get(), &status) == 0 && S_ISDIR(status.st_mode)) return std::nullopt;
  if (place) return std::optional(*std::move(place));
  const int code = place.error().code;
  if (code == ENOENT || code == ENOTDIR || code == ELOOP) return std::nullopt;
  return fail(place.error());
}

}  // namespace

Result<UniqueFd> make_name_files(const Spec& spec, const std::string& staging) {
  UniqueFd memory =
      UMWELT_TRY(make_filesystem("tmpfs", {{"mode", "0755"}, {"size", "32m"}},
                                 MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  const NameFile files[] = {{"hostname", spec.hostname + "\n"},
                            hosts(spec),
                            {"resolv.conf", host_file(spec, "/etc/resolv.conf", nullptr)}};
  for (const auto& [name, text] : files) {
    if (!text) continue;
    const UniqueFd file =
        UMWELT_TRY(open_at(memory.get(), name, O_WRONLY | O_CREAT | O_EXCL, 0644));
    UMWELT_CHECK(write_all(file.get(), *text, name));
  }
  // Before Linux 6.15 nothing can be cloned from a mount that is attached nowhere.
  const UniqueFd target = UMWELT_TRY(open_at(AT_FDCWD, staging, O_PATH | O_DIRECTORY));
  UMWELT_CHECK(attach_mount(memory.get(), target.get()));
  return memory;
}

Result<void> mount_name_files(int root, int files, bool own, bool read_only) {
  for (const char* name : {"hostname", "hosts", "resolv.conf"}) {
    const auto mount = clone_mount(files, name, false);
    if (!mount && mount.error().code == ENOENT) continue;
    if (!mount) return fail(mount.error());
    const std::string path = std::string("etc/") + name;
    const auto place = UMWELT_TRY(open_place(root, path, own));
    if (!place) continue;
    if (read_only) UMWELT_CHECK(restrict_mount(mount->get(), MOUNT_ATTR_RDONLY, false));
    if (auto attached = attach_mount(mount->get(), place->get()); !attached)
      return fail(attached.error().code, "mount /" + path);
  }
  return {};
}

}  // namespace umwelt::launch
