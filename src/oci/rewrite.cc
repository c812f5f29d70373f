// SPDX-License-Identifier: Apache-2.0
#include "oci/rewrite.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "base/file.h"

namespace umwelt::oci {
namespace {

Result<void> fill(int fd, const struct stat& like, std::string_view text, bool durable) {
  struct stat own {};
  if (::fstat(fd, &own) != 0) return fail_errno("stat");
  const bool same_owner = own.st_uid == like.st_uid && own.st_gid == like.st_gid;
  if (!same_owner && ::fchown(fd, like.st_uid, like.st_gid) != 0) return fail_errno("chown");
  if (::fchmod(fd, like.st_mode & 07777) != 0) return fail_errno("chmod");
  UMWELT_CHECK(write_all(fd, text, "write"));
  if (durable && ::fsync(fd) != 0) return fail_errno("fsync");
  return {};
}

}  // namespace

Result<void> rewrite_file(const std::string& path, std::string_view text, bool durable) {
  char resolved[PATH_MAX];
  const std::string real = ::realpath(path.c_str(), resolved) != nullptr ? resolved : path;
  struct stat like {};
  if (::stat(real.c_str(), &like) != 0) {
    if (errno != ENOENT) return fail_errno("stat " + real);
    like.st_mode = 0644;
    like.st_uid = ::geteuid();
    like.st_gid = ::getegid();
  }
  std::string temporary = real + ".XXXXXX";
  const UniqueFd fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd) return fail_errno("make a file beside " + real);
  auto done = fill(fd.get(), like, text, durable);
  if (done && ::rename(temporary.c_str(), real.c_str()) != 0) done = fail_errno("rename");
  if (done) return {};
  ::unlink(temporary.c_str());
  return fail(done.error().code, done.error().text + " " + real);
}

}  // namespace umwelt::oci
