// SPDX-License-Identifier: Apache-2.0
// Images: root filesystems that many containers share, each stored once, read-only. NAME.json says
// what an image is; its content is sha256-HEX.erofs (or, where this machine has no EROFS, the
// directory sha256-HEX.d), also if several names have it.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "vdisk/loop.h"
#include "vdisk/oci_layout.h"
#include "vdisk/template.h"

namespace umwelt::vdisk {

class Store;

enum class ImageForm { kErofs, kDirectory };

struct Image {
  std::string name;
  std::string digest;  // "sha256:...": of the EROFS file, or of all entries of the directory
  ImageForm form = ImageForm::kErofs;
  std::uint64_t stored_bytes = 0;   // of the EROFS file; content of the directory
  std::uint64_t content_bytes = 0;  // of all files in it
  std::uint64_t entries = 0;
  std::string source;          // where it was imported from
  std::int64_t created_s = 0;  // since the epoch
  ImageConfig config;
};
nlohmann::json to_json(const ImageConfig& config);
Result<ImageConfig> config_from_json(const nlohmann::json& json);  // EUCLEAN
nlohmann::json to_json(const Image& image);
// The text of NAME.json. An Error (code 0): longer than what is read back.
Result<std::string> describe(const Image& image);
Result<Image> image_from_json(const nlohmann::json& json);  // EUCLEAN

// "debian-12", "web:1.2": [a-zA-Z0-9][a-zA-Z0-9_.:-]{0,127}
bool valid_image_name(std::string_view name);
// "/srv/debian-12.tar.gz" -> "debian-12"; "" where nothing valid is left.
std::string image_name_of(const std::string& path);
// "sha256-HEX.erofs" or "sha256-HEX.d".
std::string content_name(const Image& image);
// "sha256-HEX.erofs" -> "sha256:HEX", of every file that the store keeps for that content; "" of
// any other.
std::string digest_of_content(const std::string& file);

// An Error (code 0) that also says what to do about it.
tl::unexpected<Error> damaged(const std::string& name, const std::string& why);
// Whether an errno tells something about a file of an image, and not about the process that could
// not read it (EMFILE, EPERM), or the host (ENOMEM).
bool proves_damage(int code);

// A detached read-only mount of the image. All users share one superblock, and so one page cache:
// that of the loop device, which the first of them attaches and the last one's end detaches. While
// one lives the image is locked.
struct MountedImage {
  UniqueFd mount, lock;
  std::optional<Loop> loop;
};

struct ImageList {
  std::vector<Image> images;         // by name
  std::vector<std::string> damaged;  // names whose description can't be read
};

struct ImportStep {
  std::string what;                               // "unpacking", "writing"
  std::uint64_t done_bytes = 0, total_bytes = 0;  // total 0: unknown
};
using ImportProgress = std::function<void(const ImportStep&)>;

// Thread-safe, and safe against other processes with the same directory. Errors with code 0 are
// whole sentences; ENOENT, EEXIST, EBUSY say it of the image's name.
class ImageStore {
 public:
  static Result<ImageStore> open(const std::string& directory);

  // `source`: a directory, an archive (tar, OCI or docker), or "-" for an archive on `standard_in`.
  // When this returns, it is on the disk. Of an import that is killed nothing stays, of one in a
  // crash of the host what the next tidy() removes. Where `vdisks` are on the same filesystem,
  // their critical mark stays free.
  Result<Image> import(const std::string& source, const std::string& name,
                       const ImportProgress& progress = {}, int standard_in = 0,
                       const Store* vdisks = nullptr) const;
  Result<ImageList> list() const;
  Result<Image> find(const std::string& name) const;
  // Its content goes with the last name. EBUSY while it is mounted. One that is damaged can be
  // removed as well.
  Result<void> remove(const std::string& name) const;
  Result<MountedImage> mount(const Image& image) const;
  bool in_use(const Image& image) const;
  // Reads all of it. An Error (code 0): it is not what was imported.
  Result<void> verify(const Image& image, const ImportProgress& progress = {}) const;
  // A pax archive of it to `file`.
  Result<void> export_to(const Image& image, int file, const ImportProgress& progress = {}) const;

  // An ext4 file of the capacity and class with the image's whole content: what clones are copied
  // from. Made once.
  Result<UniqueFd> clone_base(const Image& image, std::uint64_t capacity_bytes, Class c,
                              const ImportProgress& progress = {}) const;

  // Removes what imports and removals that were killed have left; how many files and directories.
  // None while somebody else changes the store, which may take as long as an image is read.
  Result<unsigned> tidy() const;

 private:
  ImageStore(UniqueFd directory, std::string path, std::string owner)
      : directory_(std::move(directory)), path_(std::move(path)), owner_(std::move(owner)) {}

  Result<UniqueFd> lock_store() const;
  Result<std::string> sum_of_tree(int root) const;
  Result<void> publish(Image& image, int file) const;
  Result<void> publish_directory(Image& image, int staging, const std::string& name) const;
  Result<bool> is_stored(const Image& image) const;
  Result<void> write(const std::string& name, const std::string& description) const;
  Result<UniqueFd> lock_content(const Image& image) const;
  Result<void> remove_content(const std::string& digest) const;
  bool is_orphan(const std::string& name, const std::set<std::string>& digests) const;
  Result<unsigned> remove_orphans() const;
  Result<UniqueFd> open_content(const Image& image) const;
  Result<MountedImage> mount_erofs(const Image& image) const;
  Result<MountedImage> mount_directory(const Image& image) const;

  UniqueFd directory_;
  std::string path_, owner_;
};

}  // namespace umwelt::vdisk
