// SPDX-License-Identifier: Apache-2.0
#include "vdisk/digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "vdisk/late_library.h"

namespace umwelt::vdisk {
namespace {

struct LibCrypto : LateLibrary {
  LibCrypto() : LateLibrary("libcrypto.so.3") {}

  UMWELT_LATE(EVP_DigestFinal_ex);
  UMWELT_LATE(EVP_DigestInit_ex);
  UMWELT_LATE(EVP_DigestUpdate);
  UMWELT_LATE(EVP_MD_CTX_free);
  UMWELT_LATE(EVP_MD_CTX_new);
  UMWELT_LATE(EVP_sha256);
};

const LibCrypto& libcrypto() {
  static const LibCrypto library;
  return library;
}

struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { libcrypto().EVP_MD_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_MD_CTX, FreeContext>;

Result<Context> begin_sha256() {
  UMWELT_CHECK(libcrypto().loaded());
  Context context(libcrypto().EVP_MD_CTX_new());
  if (!context ||
      libcrypto().EVP_DigestInit_ex(context.get(), libcrypto().EVP_sha256(), nullptr) != 1)
    return fail(ENOMEM, "compute a SHA-256 digest");
  return context;
}

std::string end_sha256(EVP_MD_CTX* context) {
  unsigned char sum[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  libcrypto().EVP_DigestFinal_ex(context, sum, &size);
  std::string text;
  for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", sum[i]);
  return text;
}

}  // namespace

Result<std::string> sha256_of(
    int file,
    const std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)>& progress) {
  struct stat status {};
  if (::fstat(file, &status) != 0) return fail_errno("fstat");
  const Context context = UMWELT_TRY(begin_sha256());
  std::string buffer(1U << 20, '\0');
  std::uint64_t done = 0;
  for (;;) {
    const ssize_t n = ::pread(file, buffer.data(), buffer.size(), static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read");
    if (n == 0) return end_sha256(context.get());
    libcrypto().EVP_DigestUpdate(context.get(), buffer.data(), static_cast<std::size_t>(n));
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
