// SPDX-License-Identifier: Apache-2.0
#include "vdisk/digest.h"

#include <fmt/format.h>
#include <nettle/sha2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace umwelt::vdisk {
namespace {

std::string end_sha256(sha256_ctx& context) {
  unsigned char sum[SHA256_DIGEST_SIZE];
  ::sha256_digest(&context, sizeof sum, sum);
  std::string text;
  for (const unsigned char byte : sum) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace

Result<std::string> sha256_of(
    int file,
    const std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)>& progress) {
  struct stat status {};
  if (::fstat(file, &status) != 0) return fail_errno("fstat");
  sha256_ctx context;
  ::sha256_init(&context);
  std::string buffer(1U << 20, '\0');
  std::uint64_t done = 0;
  for (;;) {
    const ssize_t n = ::pread(file, buffer.data(), buffer.size(), static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read");
    if (n == 0) return end_sha256(context);
    ::sha256_update(&context, static_cast<std::size_t>(n),
                    reinterpret_cast<const std::uint8_t*>(buffer.data()));
    done += static_cast<std::uint64_t>(n);
    if (progress) progress(done, static_cast<std::uint64_t>(status.st_size));
  }
}

bool valid_digest(std::string_view digest) {
  constexpr std::string_view kPrefix = "sha256:";
  if (!digest.starts_with(kPrefix) || digest.size() != kPrefix.size() + 64) return false;
  digest.remove_prefix(kPrefix.size());
  return std::all_of(digest.begin(), digest.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace umwelt::vdisk
