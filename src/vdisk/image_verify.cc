// SPDX-License-Identifier: Apache-2.0
// Whether an image is what was imported. Apart from image.cc, so that the daemon, which never reads
// one, has no libarchive.
#include <fcntl.h>

#include "base/file.h"
#include "vdisk/digest.h"
#include "vdisk/image.h"
#include "vdisk/pack.h"

namespace umwelt::vdisk {

// Of the archive that export_to() would make.
Result<std::string> ImageStore::sum_of_tree(int root) const {
  const UniqueFd archive = UMWELT_TRY(open_at(directory_.get(), ".", O_TMPFILE | O_RDWR, 0600));
  UMWELT_CHECK(pack(root, archive.get()));
  return sha256_of(archive.get());
}

Result<void> ImageStore::verify(const Image& image, const ImportProgress& progress) const {
  std::string sum;
  if (image.form == ImageForm::kErofs) {
    const UniqueFd file = UMWELT_TRY(open_content(image));
    sum = UMWELT_TRY(sha256_of(file.get(), [&](std::uint64_t d, std::uint64_t t) {
      if (progress) progress({"reading", d, t});
    }));
  } else {
    const auto root =
        open_at(directory_.get(), content_name(image), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!root && proves_damage(root.error().code))
      return damaged(image.name, "its directory is missing");
    if (!root) return fail(root.error());
    sum = UMWELT_TRY(sum_of_tree(root->get()));
  }
  if ("sha256:" + sum != image.digest) return damaged(image.name, "its digest is another one");
  return {};
}

}  // namespace umwelt::vdisk
